"""A local Ray with two replicas: memories rolled forward and back while requests come in."""

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from memoir_edge import memory as memories
from memoir_edge.errors import InputError
from memoir_edge_runtime import Options

pytest.importorskip("ray", reason="ray is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
TOKENS, REPLICAS = 6, 2
ANSWERED = {"prompt": "the", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
Deploy = Callable[[dict[str, Any]], None]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _until(holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """Ray on this machine; where its REST API is."""
    import ray
    from ray import serve

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        port = _free_port()
        ray.init(num_cpus=REPLICAS, include_dashboard=True, dashboard_port=port,
                 log_to_driver=False, logging_level="error")  # fmt: skip
        yield f"http://127.0.0.1:{port}/api/serve/applications/"
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def application(dashboard: str, export_dir: Path) -> Any:
    """Deploys the application with a memory; its status, and where it answers."""

    class Application:
        port = _free_port()
        url = f"http://127.0.0.1:{port}"

        def deploy(self, user_config: dict[str, Any]) -> None:
            application = {
                "name": "facts",
                "import_path": "memoir_edge_runtime.serve.ray_app:app",
                "args": {"model": str(export_dir), "threads": 1, "settings": {"drain": 5}},
                "deployments": [
                    {"name": "memoir-edge", "num_replicas": REPLICAS, "user_config": user_config,
                     "ray_actor_options": {"num_cpus": 0.5}}
                ],
            }  # fmt: skip
            http = {"host": "127.0.0.1", "port": self.port}
            sent = {"applications": [application], "http_options": http}
            httpx.put(dashboard, json=sent, timeout=60).raise_for_status()

        def status(self) -> Any:
            found = httpx.get(dashboard, timeout=60).json()["applications"]
            return found.get("facts", {"status": "NOT_STARTED"})

        def running(self) -> bool:
            return bool(self.status()["status"] == "RUNNING")

        def roll(self, user_config: dict[str, Any]) -> None:
            """Deploy, and wait until Ray says that all replicas have it."""
            self.deploy(user_config)
            _until(self.running, str(user_config))

        def replicas(self) -> set[str]:
            found = self.status()["deployments"]["memoir-edge"]["replicas"]
            return {each["replica_id"] for each in found}

        def digests(self) -> set[str | None]:
            """Of many answers: more than one replica's."""
            with httpx.Client(base_url=self.url, timeout=60) as client:
                return {_answer(client)["memory"]["digest"] for _ in range(20)}

    return Application()


def _answer(client: httpx.Client) -> Any:
    found = client.post("/v1/completions", json=ANSWERED)
    assert found.status_code == 200, found.text
    return found.json()


class Load:
    """Clients that ask until they are told to stop."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.answers: list[tuple[str | None, str]] = []
        self.failed: list[BaseException] = []
        self._stop, self._url = threading.Event(), url
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        try:
            with httpx.Client(base_url=self._url, timeout=60) as client:
                while not self._stop.is_set():
                    found = _answer(client)
                    self.answers.append((found["memory"]["digest"], found["choices"][0]["text"]))
        except BaseException as error:
            self.failed.append(error)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def files(two: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("memories")
    paths = folder / "a.safetensors", folder / "b.safetensors"
    for memory, path in zip(two, paths, strict=True):
        memories.write(memory, path)
    return paths


def _wanted(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"memory": {"uri": file.as_uri(), "digest": digest}}


def test_rolling_forward_and_back_fails_nothing(application, files, session):
    a, b = map(_wanted, files)
    digests = [each["memory"]["digest"] for each in (a, b)]
    application.roll(a)
    assert application.digests() == {digests[0]}
    replicas = application.replicas()
    assert len(replicas) == REPLICAS
    with Load(application.url) as load:
        _until(lambda: len(load.answers) > 20, "no answers before")
        application.roll(b)
        assert application.digests() == {digests[1]}
        application.roll(a)
        assert application.digests() == {digests[0]}
    assert not load.failed
    assert application.replicas() == replicas  # none was restarted
    expected = {
        (
            digest,
            session.generate("the", Options(TOKENS), memory=session.load(file))[0].text,
        )
        for digest, file in zip(digests, files, strict=True)
    }
    assert set(load.answers) == expected


def test_a_memory_that_cannot_be_had_reaches_no_more_than_one_replica(application, files):
    good = _wanted(files[0])
    application.roll(good)
    wrong = {"memory": good["memory"] | {"digest": "0" * 64}}
    with Load(application.url) as load:
        application.deploy(wrong)
        _until(lambda: "wanted is 0000" in str(application.status()), "the status tells nothing")
        assert application.digests() == {good["memory"]["digest"]}
        application.roll(good)
    assert not load.failed
    assert {digest for digest, _ in load.answers} == {good["memory"]["digest"]}


def test_settings_that_are_not_the_applications_to_take(export_dir):
    from memoir_edge_runtime.serve.ray_app import Arguments, app

    for settings, said in (({"admin_key": "12345678"}, "admin_key cannot"), ({"x": 1}, "'x'")):
        with pytest.raises(InputError, match=said):
            app(Arguments(model=export_dir, settings=settings))


def test_the_documented_configuration_is_one_that_ray_and_we_take():
    from ray.serve.schema import ServeDeploySchema

    from memoir_edge_runtime.serve import wanted
    from memoir_edge_runtime.serve.ray_app import NAME, Arguments, _settings

    page = (Path(__file__).parents[3] / "docs/deploying.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    [application] = ServeDeploySchema.model_validate(yaml.safe_load(shown)).applications
    assert application.import_path == "memoir_edge_runtime.serve.ray_app:app"
    _settings(Arguments(**application.args))
    [deployment] = application.deployments
    assert deployment.name == NAME
    assert wanted.parse(deployment.user_config).name == "monday"
