"""The contract suite under test: each fact it states is made untrue by some defect."""

import pytest

from asyafw.testing import transport_contract
from tests.contract import defects
from tests.contract.defects import Wrapped, WrappedHarness

BEHAVIOURS = {behaviour.__name__: behaviour for behaviour in transport_contract.BEHAVIOURS}

BREAKS: dict[type[Wrapped], tuple[str, ...]] = {
    defects.LosesKeys: ("a_message_is_delivered_as_it_was_sent",),
    defects.EmitsOnlyTheFirst: ("one_emit_reaches_many_queues_and_logs",),
    defects.DropsWhatNobodyWaitsFor: ("messages_wait_for_their_first_consumer",),
    defects.DeliversTwice: (
        "each_message_goes_to_one_consumer",
        "a_message_in_hand_is_not_delivered_to_others",
    ),
    defects.AcceptsWhenClosed: ("a_closed_transport_says_so",),
    defects.IgnoresLimits: ("receive_keeps_its_limit",),
    defects.NeverWaits: ("receive_waits_for_a_message",),
    defects.LosesWhatComesToACancelledReceive: (
        "a_cancelled_receive_loses_nothing",
        "cancelling_as_messages_arrive_loses_nothing",
    ),
    defects.ServesOnlyTheFirst: ("every_waiting_consumer_is_served",),
    defects.ForgetsSettles: ("a_settled_message_is_gone",),
    defects.SettlesWithoutEmitting: (
        "settle_forwards_and_appends",
        "a_message_can_be_sent_to_its_own_queue",
        "parts_come_with_settles",
    ),
    defects.SettlesWhatWasLost: (
        "a_second_settle_does_nothing",
        "a_lost_lease_settles_to_false",
        "a_late_settle_takes_nothing_away",
        "a_part_of_a_lost_lease_does_not_count",
        "a_join_is_settled_like_any_message",
    ),
    defects.MixesConcurrentSettles: ("concurrent_settles_keep_apart",),
    defects.SettlesOnDelivery: (
        "unsettled_messages_come_back_when_their_consumer_closes",
        "unsettled_messages_come_back_after_a_crash",
        "closing_with_work_in_hand_loses_nothing",
        "a_late_settle_takes_nothing_away",
        "a_completed_join_survives_a_crash",
    ),
    defects.CountsReleases: (
        "a_released_message_comes_back_uncounted",
        "attempts_count_deliveries",
    ),
    defects.NeverCounts: (
        "attempts_count_deliveries",
        "unsettled_messages_come_back_when_their_consumer_closes",
        "unsettled_messages_come_back_after_a_crash",
    ),
    defects.LeasesLapse: ("a_long_handler_keeps_its_lease",),
    defects.IgnoresDelays: ("a_delayed_message_waits_for_its_time",),
    defects.DelaysWhatFollowsADelay: ("delays_end_in_due_order", "a_delay_holds_nothing_up"),
    defects.LosesDelaysInACrash: ("a_delay_outlives_its_sender",),
    defects.GivesAnUnusedQueueAnAge: ("a_queue_that_nobody_used_has_no_lag",),
    defects.CountsWhatIsInHandAsWaiting: ("lag_follows_a_message", "lag_counts_exactly"),
    defects.DoesNotCountDelays: ("lag_counts_what_is_delayed", "lag_counts_exactly"),
    defects.TellsNoAge: ("lag_tells_the_age_of_the_oldest",),
    defects.CountsReturnsAsArrivals: ("arrivals_are_counted_once",),
    defects.CountsBelowZero: ("lag_is_never_negative",),
    defects.CountsArrivalsDown: ("lag_is_never_negative", "arrivals_are_counted_once"),
    defects.GivesAllEntriesOnePosition: ("a_log_is_read_in_the_order_of_its_entries",),
    defects.ReadsBackwards: ("a_log_is_read_in_the_order_of_its_entries",),
    defects.IgnoresAges: ("a_log_replays_from_an_age", "a_reader_begins_with_what_is_new"),
    defects.IgnoresPositions: ("a_log_replays_from_a_position",),
    defects.StopsAtTheEnd: ("a_reader_goes_on_as_the_log_grows",),
    defects.LetsReadersCompete: ("every_reader_sees_every_entry",),
    defects.HasOneLog: ("logs_keep_apart",),
    defects.OrdersPartsAsTheyCome: ("a_join_is_delivered_with_its_parts_in_order",),
    defects.DeliversEachPart: ("a_join_waits_for_all_its_parts",),
    defects.ForgetsJoins: (
        "repeated_parts_are_ignored",
        "parts_that_come_too_late_are_dropped",
        "a_join_of_one_is_delivered_once",
    ),
    defects.RedeliversJoinsWithoutParts: ("a_completed_join_survives_a_crash",),
    defects.LosesPartsInACrash: ("an_incomplete_join_survives_a_crash",),
    defects.NeverTimesOut: ("a_join_whose_time_is_over_is_delivered_as_it_is",),
    defects.TimesOutAtOnce: ("a_join_waits_for_all_its_parts",),
    defects.JoinsByQueue: ("joins_keep_apart",),
}


@pytest.mark.parametrize("behaviour", transport_contract.BEHAVIOURS, ids=transport_contract.name)
async def test_without_a_defect_every_behaviour_holds(
    behaviour: transport_contract.Behaviour,
) -> None:
    await behaviour(WrappedHarness(Wrapped, patience_s=5))


@pytest.mark.parametrize(
    ("defect", "name"), [(defect, name) for defect, names in BREAKS.items() for name in names]
)
async def test_a_defect_breaks_a_behaviour(defect: type[Wrapped], name: str) -> None:
    with pytest.raises((AssertionError, TimeoutError)):
        await BEHAVIOURS[name](WrappedHarness(defect, patience_s=0.15))


def test_each_behaviour_is_broken_by_some_defect() -> None:
    broken = {name for names in BREAKS.values() for name in names}

    assert broken == BEHAVIOURS.keys()


def test_each_behaviour_states_its_fact() -> None:
    undocumented = [name for name, behaviour in BEHAVIOURS.items() if not behaviour.__doc__]

    assert not undocumented
