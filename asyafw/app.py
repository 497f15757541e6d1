"""An app: actors, the flows through them, and what they share."""

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Literal, TypedDict, Unpack

from asyafw._actor import Actor
from asyafw._check import problems
from asyafw._connect import open_transport
from asyafw._discovery import find_actors, find_instances, load
from asyafw._outcome import Rules
from asyafw.blobs import Blobs
from asyafw.client import Catalogue, Client
from asyafw.envelope import Limits, check_name
from asyafw.exceptions import AppCheckError, ConfigurationError, TargetError, UnknownActor
from asyafw.middleware import Middleware
from asyafw.telemetry import Metrics
from asyafw.transport import Transport
from asyafw.worker import Lifespan, Setup, Worker

__all__ = ["App", "AppOptions", "WorkerOptions", "load_app"]

_MOST_NAMES: Final = 12


class AppOptions(TypedDict, total=False):
    """What an `App` takes beside its actors and flows.

    ================ =============================================================================
    middleware       callables around every handler, the first outermost
    lifespan         gives an async context manager whose value handlers find in `Context.state`
    limits           bounds of messages, see `Limits`
    blobs            where payloads above the limit go: ``"file:///…"``, ``"s3://…"``, or `Blobs`
    remote           names of actors that other apps serve and routes may lead to
    events           ``"hops"`` tells every hop of a job, ``"jobs"`` only its begin and end
    ================ =============================================================================
    """

    middleware: Sequence[Middleware]
    lifespan: Lifespan
    limits: Limits
    blobs: str | Blobs
    remote: Iterable[str]
    events: Literal["hops", "jobs"]


class WorkerOptions(TypedDict, total=False):
    """What `App.worker` takes beside the transport.

    ================ =============================================================================
    actors           names of those to serve; all without it
    drain_timeout_s  seconds that handlers have to finish when the worker stops, by default 30
    max_deliveries   how often a message may be delivered and never settled, by default 5
    metrics          where to count, if not in numbers of its own
    ================ =============================================================================
    """

    actors: Iterable[str]
    drain_timeout_s: float
    max_deliveries: int
    metrics: Metrics


class App:
    """Actors that know of each other, and the flows by which jobs are submitted to them.

    `actors` are what `@actor` gives: for a class, too, which some type checkers still take for one.
    """

    def __init__(
        self,
        actors: Iterable[Actor[..., Any] | type],
        flows: Mapping[str, Sequence[str]] | None = None,
        **options: Unpack[AppOptions],
    ) -> None:
        _check_options("App", options, AppOptions)
        if options.get("events", "hops") not in ("hops", "jobs"):
            raise ConfigurationError('App(events=...) is "hops" or "jobs"')
        self.actors = _by_name(actors)
        self.flows = {
            check_name(name): _route(name, route) for name, route in (flows or {}).items()
        }
        self.limits = options.get("limits", Limits())
        self._options = options
        blobs = options.get("blobs")
        self._blobs = Blobs(blobs) if isinstance(blobs, str) else blobs
        self._known = frozenset(self.actors) | {check_name(n) for n in options.get("remote", ())}
        self._checked = False

    def check(self) -> None:
        """Verify that the actors fit together: names, and the types from hop to hop.

        It looks at every flow, and at the routes that actors declare
        by ``may_route_to`` and ``on_exhausted``.

        Raises:
            AppCheckError: they do not; its `problems` has a sentence for each.
        """
        if not self._checked and (found := problems(self.actors, self.flows, self._known)):
            raise AppCheckError(found)
        self._checked = True

    def connect(self, transport: str | Transport) -> Client:
        """Make a client, to be opened with ``async with``.

        Raises:
            UnknownScheme, MissingExtra, ConfigurationError: there is no such transport.
        """
        connection = open_transport(transport)
        catalogue = Catalogue(
            flows=self.flows,
            actors=self.actors,
            known=self._known,
            limits=self.limits,
            blobs=self._blobs,
            codec=connection.codec,
        )
        return Client(connection.transport, catalogue)

    def worker(self, transport: str | Transport, **options: Unpack[WorkerOptions]) -> Worker:
        """Make a worker, which serves the actors for as long as its ``async with`` lasts.

        Raises:
            AppCheckError: the actors do not fit together.
            UnknownActor: the app has no actor of that name.
            UnknownScheme, MissingExtra, ConfigurationError: there is no such transport.
        """
        _check_options("App.worker", options, WorkerOptions)
        self.check()
        connection = open_transport(transport)
        setup = Setup(
            rules=self._rules(),
            middleware=tuple(self._options.get("middleware", ())),
            blobs=self._blobs,
            lifespan=self._options.get("lifespan"),
            codec=connection.codec,
            drain_timeout_s=options.get("drain_timeout_s", 30.0),
            max_deliveries=options.get("max_deliveries", 5),
        )
        served = self._served(options.get("actors"))
        return Worker(served, connection.transport, setup, options.get("metrics"))

    def _rules(self) -> Rules:
        return Rules(
            joins={name: actor.join for name, actor in self.actors.items() if actor.join},
            forks={name for name, actor in self.actors.items() if actor.signature.yields},
            known=self._known,
            limits=self.limits,
            events=self._options.get("events", "hops"),
        )

    def _served(self, names: Iterable[str] | None) -> dict[str, Actor[..., Any]]:
        if names is None:
            return self.actors
        wanted = list(names)
        if unknown := [name for name in wanted if name not in self.actors]:
            raise UnknownActor(
                f"the app has no actor {', '.join(map(repr, unknown))}; "
                f"it has {', '.join(sorted(self.actors))}"
            )
        return {name: self.actors[name] for name in wanted}


def load_app(target: str) -> App:
    """Load the app of ``pkg.module:attribute``.

    Without the attribute it is the module's `app`, or its only app;
    of a module without one, its actors become an app, which has no flows.

    Raises:
        TargetError: there is none, or the module cannot be imported.
    """
    module, attribute, value = load(target)
    if attribute is not None:
        if not isinstance(value, App):
            raise TargetError(f"{target!r} is of type {type(value).__qualname__}, not App")
        return value
    named = getattr(module, "app", None)
    return named if isinstance(named, App) else _only_app(module)


def _only_app(module: ModuleType) -> App:
    apps = find_instances(module, App)
    if len(apps) == 1:
        return apps[0]
    if apps:
        names = [name for name, value in vars(module).items() if any(value is app for app in apps)]
        targets = " or ".join(f"{module.__name__}:{name}" for name in names)
        raise TargetError(f"module {module.__name__!r} has several apps; name one: {targets}")
    actors = find_actors(module)
    if not actors:
        raise TargetError(
            f"module {module.__name__!r} has neither an App nor an actor, {_contents(module)}: "
            "decorate functions with @actor, or make app = App(actors=[...])"
        )
    return App(actors)


def _check_options(of: str, given: Mapping[str, Any], known: type) -> None:
    if unknown := given.keys() - known.__annotations__.keys():
        raise ConfigurationError(
            f"{of} has no option {', '.join(sorted(unknown))}; "
            f"it has {', '.join(known.__annotations__)}"
        )


def _route(flow: str, route: Sequence[str]) -> tuple[str, ...]:
    if isinstance(route, str):
        raise ConfigurationError(
            f"flow {flow!r} is a list of actors' names, not the text {route!r}"
        )
    return tuple(route)


def _by_name(actors: Iterable[Actor[..., Any] | type]) -> dict[str, Actor[..., Any]]:
    found: dict[str, Actor[..., Any]] = {}
    for each in actors:
        if not isinstance(each, Actor):
            raise ConfigurationError(f"App(actors=[...]) takes what @actor gives, not {each!r}")
        if each.name in found:
            first = found[each.name].handler
            raise ConfigurationError(
                f"two actors are called {each.name!r}: {_where(first)} and {_where(each.handler)}; "
                "give one another name by @actor(name=...)"
            )
        found[each.name] = each
    return found


def _where(handler: Any) -> str:
    return f"{handler.__module__}.{getattr(handler, '__qualname__', handler)}"


def _contents(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if not (name.startswith("_") or isinstance(value, ModuleType))
    ]
    return f"only {', '.join(names[:_MOST_NAMES])}" if names else "and nothing else"
