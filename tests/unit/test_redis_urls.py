from urllib.parse import quote

import pytest
from asyafw_redis import from_url
from asyafw_redis._gate import check, read_info
from asyafw_redis._options import OPTIONS, Address, Options, parse
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from redis.exceptions import BusyLoadingError, ReadOnlyError

from asyafw.exceptions import ConfigurationError

LOCAL = (Address("localhost", 6379),)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
"""What can be written as UTF-8."""


def problem(url: str) -> str:
    """Tell what is wrong with a URL."""
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://", Options(LOCAL)),
        ("redis:///2", Options(LOCAL, db=2)),
        ("REDIS://h", Options((Address("h", 6379),))),
        ("redis://h:7/0", Options((Address("h", 7),))),
        ("redis://h:/", Options((Address("h", 6379),))),
        ("redis://h?", Options((Address("h", 6379),))),
        ("redis://:p@h", Options((Address("h", 6379),), password="p")),
        ("redis://u@h", Options((Address("h", 6379),), username="u")),
        ("redis://u:@h", Options((Address("h", 6379),), username="u")),
        ("redis://u:p@h", Options((Address("h", 6379),), username="u", password="p")),
        ("redis://u:p:q@r@h", Options((Address("h", 6379),), username="u", password="p:q@r")),
        ("redis://[::1]", Options((Address("::1", 6379),))),
        ("redis://[::1]:7/1", Options((Address("::1", 7),), db=1)),
        ("redis://[fe80::1%25eth0]:7", Options((Address("fe80::1%eth0", 7),))),
        ("rediss://h", Options((Address("h", 6379),), tls=True)),
        ("unix:///run/redis.sock", Options(path="/run/redis.sock")),
        ("unix:///run/a%20b@c.sock?db=3", Options(path="/run/a b@c.sock", db=3)),
        ("unix://u:p@/r.sock", Options(path="/r.sock", username="u", password="p")),
        ("redis+sentinel://s/m", Options((Address("s", 26379),), service="m")),
        (
            "redis+sentinel://u:p@a,[::2]:5,c:6/my%20m/4",
            Options(
                (Address("a", 26379), Address("::2", 5), Address("c", 6)),
                service="my m",
                username="u",
                password="p",
                db=4,
            ),
        ),
        ("rediss+sentinel://s/m", Options((Address("s", 26379),), service="m", tls=True)),
    ],
)
def test_a_url_says_where_the_server_is(url: str, options: Options) -> None:
    assert parse(url) == options


def test_a_url_says_how_the_server_is_used() -> None:
    options = parse(
        "redis://h?prefix=shop:blue&durability=relaxed&lease_s=1.5&timeout_s=2&retention_s=60"
    )

    assert options == Options(
        (Address("h", 6379),),
        prefix="shop:blue",
        durability="relaxed",
        lease_s=1.5,
        timeout_s=2,
        retention_s=60,
    )


def test_a_url_says_whom_to_trust() -> None:
    options = parse(
        "rediss+sentinel://s/m?ca_file=/a%26b+c&cert_file=c&key_file=k&verify=ca"
        "&sentinel_username=u&sentinel_password=p%26+"
    )

    assert options == Options(
        (Address("s", 26379),),
        service="m",
        tls=True,
        ca_file="/a&b+c",
        cert_file="c",
        key_file="k",
        verify="ca",
        sentinel_username="u",
        sentinel_password="p&+",
    )


@given(texts, texts)
def test_any_user_and_password_come_through_when_they_are_quoted(user: str, password: str) -> None:
    options = parse(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@h/1")

    assert options == Options((Address("h", 6379),), username=user, password=password, db=1)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/?#%"), min_size=1))
def test_a_password_need_be_quoted_only_where_the_url_would_end(password: str) -> None:
    assert parse(f"redis://:{password}@h") == Options((Address("h", 6379),), password=password)


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_any_address_is_said_as_it_is_written(host: object, port: int) -> None:
    options = parse(f"redis://[{host}]:{port}")

    assert str(options) == f"Redis at [{host}]:{port}"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://h:x", "'x' is no port"),
        ("redis://h:0", "'0' is no port"),
        ("redis://h:65536", "'65536' is no port"),
        ("redis://h:٣", "'٣' is no port"),
        ("redis://::1", "'::1' is no HOST:PORT; an IPv6 address is written as [::1]:6379"),
        ("redis://[::1", "is no HOST:PORT"),
        ("redis://x[::1]", "is no HOST:PORT"),
        ("redis://[]", "is no HOST:PORT"),
        ("redis://h h", "is no HOST:PORT"),
        ("redis://h/x", "its path is the number of a database, not 'x'"),
        ("redis://h/-1", "its path is the number of a database, not '-1'"),
        ("redis://h/1/2", "its path is the number of a database, not '1/2'"),
        ("redis://h/" + "9" * 5000, "its path is the number of a database"),
        ("redis://h#1", "it has a '#'"),
        ("redis://a,b", "several hosts are Sentinels: redis+sentinel://A,B/SERVICE"),
        ("rediss://a,b/0", "several hosts are Sentinels: rediss+sentinel://A,B/SERVICE"),
        ("redis+sentinel://s", "it lacks the name of the service"),
        ("redis+sentinel://s/", "it lacks the name of the service"),
        ("redis+sentinel://s/m/x", "its path is the number of a database, not 'x'"),
        ("redis+sentinel://a,,b/m", "a host is missing in 'a,,b'"),
        ("unix://", "write unix:///path/to/redis.sock"),
        ("unix:///", "write unix:///path/to/redis.sock"),
        ("unix://run/redis.sock", "write unix:///path/to/redis.sock"),
        ("unix:///r?db=x", "db is the number of a database"),
        ("redis://h?db=3", "the number of the database ends the path: redis://HOST:PORT/3"),
        ("redis://h?prefx=a", "did you mean 'prefix'?"),
        ("redis://h?nonsense", f"unknown option 'nonsense'; there are {', '.join(OPTIONS)}"),
        ("redis://h?prefix=a&prefix=b", "prefix is given twice"),
        ("redis://h?prefix=", "prefix is a text without spaces"),
        ("redis://h?prefix={a}", "prefix is a text without spaces"),
        ("redis://h?prefix=a*", "prefix is a text without spaces"),
        ("redis://h?prefix=a%0a", "prefix is a text without spaces"),
        ("redis://h?durability=maybe", "durability is one of strict, relaxed"),
        ("redis://h?lease_s=0", "lease_s is a number of seconds, from 0.1 to 1e9"),
        ("redis://h?lease_s=nan", "lease_s is a number of seconds, from 0.1 to 1e9"),
        ("redis://h?timeout_s=soon", "timeout_s is a number of seconds, from 0.1 to 1e9"),
        ("redis://h?retention_s=inf", "retention_s is a number of seconds, from 1 to 1e9"),
        ("redis://h?ca_file=/ca", "ca_file is for TLS: write rediss://"),
        ("redis+sentinel://s/m?verify=ca", "verify is for TLS: write rediss+sentinel://"),
        ("unix:///r?key_file=/k", "key_file is for TLS: write rediss://"),
        ("rediss://h?ca_file=", "ca_file is a text"),
        ("rediss://h?verify=no", "verify is one of full, ca, none"),
        ("rediss://h?key_file=/k", "key_file needs cert_file"),
        ("redis://h?sentinel_username=u", "is for Sentinels: write redis+sentinel://"),
        ("rediss://h?sentinel_password=u", "is for Sentinels: write rediss+sentinel://"),
        ("redis://%ff@h", "its user or password is not percent-encoded UTF-8"),
    ],
)
def test_a_bad_url_is_told_what_is_wrong_with_it(url: str, told: str) -> None:
    scheme = url.partition(":")[0]

    assert problem(url).startswith(f"the {scheme}:// URL cannot be used: ")
    assert told in problem(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@h:x",
        "redis://:{}@h/x",
        "redis://:{}@h#",
        "redis://:{}@h?unknown=1",
        "redis://:{}@[::1",
        "redis+sentinel://:{}@h",
        "redis+sentinel://s/m?sentinel_passwort={}",
        "redis://h?sentinel_password={}",
        "unix://:{}@run",
    ],
)
@pytest.mark.parametrize("password", ["hush", "hu[sh", "[hu]sh", "hush℀"])
def test_the_password_is_not_told_with_the_problem(url: str, password: str) -> None:
    assert "sh" not in problem(url.format(password))


@pytest.mark.parametrize("password", ["hu/sh", "hu?sh", "hu#sh", "12/sh", "12?sh", "/sh", "sh#"])
def test_a_password_that_ends_too_early_is_not_told_but_how_to_write_it(password: str) -> None:
    told = problem(f"redis://:{password}@h:6379/0")

    assert "write %2F, %3F or %23" in told
    assert "sh" not in told


def test_neither_the_name_nor_the_value_of_options_shows_a_password() -> None:
    options = parse("redis+sentinel://ada:hush@s/m?sentinel_password=hush")
    transport = from_url("redis://ada:hush@h")

    assert str(options) == "Sentinel's 'm' at s:26379"
    assert "hush" not in repr(options) + repr(transport) + str(transport)


@pytest.mark.parametrize("option", ["ca_file", "cert_file"])
def test_a_file_that_is_not_there_is_told_at_once(option: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"{option}=/no/such cannot be read: No such file"
    ):
        from_url(f"rediss://h?{option}=/no/such")


GOOD = {
    "redis_version": "7.0.15",
    "role": "master",
    "loading": "0",
    "cluster_enabled": "0",
    "aof_enabled": "1",
    "maxmemory_policy": "noeviction",
}
SERVER = Options(LOCAL)
RELAXED = replace(SERVER, durability="relaxed")


def test_a_server_that_keeps_messages_is_good() -> None:
    check(GOOD, SERVER)


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.2", "10.0.1", "255.255.255"])
def test_a_newer_server_is_good(version: str) -> None:
    check({**GOOD, "redis_version": version}, SERVER)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"redis_version": "6.2.14"}, "is version 6.2.14; it must be 7.0 or later"),
        ({"redis_version": "unknown"}, "is version unknown; it must be 7.0 or later"),
        ({"cluster_enabled": "1"}, "is a Cluster, which cannot settle and send in one step"),
        (
            {"role": "slave", "master_host": "other", "master_port": "7"},
            "is a replica; its master is other:7",
        ),
    ],
)
@pytest.mark.parametrize("options", [SERVER, RELAXED])
def test_what_cannot_work_is_refused(found: dict[str, str], told: str, options: Options) -> None:
    with pytest.raises(ConfigurationError, match=f"Redis at localhost:6379 {told}"):
        check({**GOOD, **found}, options)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"aof_enabled": "0"}, "loses what it has accepted when it dies: set `appendonly yes`"),
        ({"maxmemory_policy": "allkeys-lru"}, r"(allkeys-lru): set `maxmemory-policy noeviction`"),
        ({"maxmemory_policy": "volatile-ttl"}, r"(volatile-ttl): set `maxmemory-policy"),
    ],
)
def test_what_would_lose_messages_is_refused_unless_that_is_accepted(
    found: dict[str, str], told: str
) -> None:
    info = {**GOOD, **found}

    check(info, RELAXED)

    with pytest.raises(ConfigurationError, match="would lose messages") as caught:
        check(info, SERVER)
    assert told in str(caught.value)
    assert "durability=relaxed" in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)appendonly yes.*noeviction"):
        check({**GOOD, "aof_enabled": "0", "maxmemory_policy": "allkeys-lru"}, SERVER)


def test_what_is_not_ready_is_no_mistake() -> None:
    with pytest.raises(BusyLoadingError):
        check({**GOOD, "loading": "1"}, SERVER)
    with pytest.raises(ReadOnlyError):
        check({**GOOD, "role": "slave"}, replace(SERVER, service="m"))


def test_info_is_read_line_by_line() -> None:
    reply = b"# Server\r\nredis_version:7.0.15\r\n\r\nexecutable:/a:b\r\nodd\r\n"

    assert read_info(reply) == {"redis_version": "7.0.15", "executable": "/a:b"}
