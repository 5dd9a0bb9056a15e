"""One fake vLLM and one proxy for each module; scripts and requests are forgotten before each test."""

from collections.abc import Iterator

import pytest

from tests.contract.servers import Fake, Proxied, Starter, config_folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts servers that end with the module."""
    starter = Starter(tmp_path_factory.mktemp("servers"))
    yield starter
    starter.stop()


@pytest.fixture(scope="module")
def vllm(start: Starter) -> Fake:
    """A model that calls tools and takes images, and does not think."""
    root = config_folder(start.folder / "smollm2")
    return start.fake(
        "--model", "smollm2", "--root", str(root), "--tool-parser", "hermes", "--takes-images",
        "--max-model-len", "2048",
    )  # fmt: skip


@pytest.fixture(scope="module")
def thinker(start: Starter) -> Fake:
    """A model that thinks before it answers."""
    return start.fake("--model", "thinker", "--reasoning-parser", "qwen3", "--tool-parser", "hermes")


@pytest.fixture(scope="module")
def embedder(start: Starter) -> Fake:
    """A model that only embeds."""
    return start.fake("--kind", "embed", "--model", "minilm", "--max-model-len", "256", "--embedding-length", "16")


@pytest.fixture(scope="module")
def proxy(start: Starter, vllm: Fake, thinker: Fake, embedder: Fake) -> Proxied:
    """The three behind one proxy, as `smollm2`, `thinker` and `minilm`."""
    return start.proxy(
        "--upstream", f"smollm2={vllm.url}", "--upstream", f"thinker={thinker.url}",
        "--upstream", f"minilm={embedder.url}", "--capabilities", "smollm2=completion,tools,vision",
        "--capabilities", "thinker=completion,tools,thinking",
        "--state-dir", str(start.folder / "state"), "--body-timeout", "1.5", "--max-body-mib", "8",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    for name in ("vllm", "thinker", "embedder"):
        if name in request.fixturenames:
            request.getfixturevalue(name).forget()
