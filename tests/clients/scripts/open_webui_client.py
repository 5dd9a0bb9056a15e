"""Open WebUI's Ollama router, mounted in an application as Open WebUI mounts it, an administrator logged in.

DATA_DIR (its database) and USE_SLIM_DOCKER come from the environment.
"""

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

os.environ["FROM_INIT_PY"] = "true"  # what the package's own command sets: files are looked for in the package
told = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):  # it prints a banner
    import httpx
    from fastapi import FastAPI
    from open_webui.models.config import Config
    from open_webui.models.users import UserModel
    from open_webui.routers import ollama as routes
    from open_webui.utils.auth import get_admin_user, get_verified_user
    from open_webui.utils.session_pool import close_session
    from seen import Seen

CHAT = [{"role": "user", "content": "Why is the sky blue?"}]
OPTIONS = {"temperature": 0, "num_predict": 12}


def application() -> FastAPI:
    app = FastAPI()
    app.include_router(routes.router, prefix="/ollama")
    app.state.OLLAMA_MODELS, app.state.BASE_MODELS, app.state.MODELS = {}, [], {}
    user = UserModel.model_construct(
        id="1", name="Admin", email="admin@example.org", role="admin", last_active_at=0, updated_at=0, created_at=0
    )
    for dependency in (get_admin_user, get_verified_user):
        app.dependency_overrides[dependency] = lambda: user
    return app


async def main(seen: Seen) -> None:
    await Config.upsert({"ollama.enable": True, "ollama.base_urls": [told["url"]], "ollama.api_configs": {}})
    transport = httpx.ASGITransport(app=application())
    async with httpx.AsyncClient(transport=transport, base_url="http://open-webui", timeout=120) as web:

        async def ask(name: str, method: str, path: str, body: Any = None) -> None:
            async def answer() -> dict[str, Any]:
                got = await web.request(method, f"/ollama{path}", json=body)
                lines = [json.loads(line) for line in got.text.splitlines() if line.strip()]
                return {"status": got.status_code, "type": got.headers.get("content-type"), "lines": lines}

            await seen.astep(name, answer)

        model, copy = f"{told['chat']}:latest", "open-webui-copy:latest"
        await ask("verify", "POST", "/verify", {"url": told["url"]})
        await ask("version", "GET", "/api/version")
        await ask("generate", "POST", "/api/generate", {"model": model, "prompt": "The sky is", "options": OPTIONS})
        await ask("tags", "GET", "/api/tags")
        await ask("tags_0", "GET", "/api/tags/0")
        await ask("ps", "GET", "/api/ps")
        await ask("show", "POST", "/api/show", {"model": model})
        chat = {"model": model, "messages": CHAT, "options": OPTIONS}
        await ask("chat", "POST", "/api/chat", chat)
        await ask("chat_whole", "POST", "/api/chat", chat | {"stream": False})
        await ask("chat_openai", "POST", "/v1/chat/completions", {"model": model, "messages": CHAT, "max_tokens": 12})
        await ask("chat_bad", "POST", "/api/chat", chat | {"options": {"num_ctx": "big"}})
        await ask("v1_models", "GET", "/v1/models/0")
        await ask("copy", "POST", "/api/copy", {"source": model, "destination": copy})
        await routes.get_all_models.cache.clear()
        await ask("copy_show", "POST", "/api/show", {"model": copy})
        await ask("delete", "DELETE", "/api/delete", {"model": copy})
        await routes.get_all_models.cache.clear()
        await ask("deleted_show", "POST", "/api/show", {"model": copy})
        await ask("create", "POST", "/api/create", {"model": "open-webui-made", "from": model, "system": "Be brief."})
        await ask("create_delete", "DELETE", "/api/delete/0", {"model": "open-webui-made"})
        await ask("pull", "POST", "/api/pull", {"model": model})
        await ask("pull_unknown", "POST", "/api/pull", {"model": "nope"})
        await ask("unload", "POST", "/api/unload", {"model": model})
        if told["embed"]:
            embed = f"{told['embed']}:latest"
            await ask("embed", "POST", "/api/embed", {"model": embed, "input": ["a cat", "a dog"]})
            await ask("embeddings", "POST", "/api/embeddings", {"model": embed, "prompt": "a cat"})
    await close_session()


if __name__ == "__main__":
    noted = Seen()
    with contextlib.redirect_stdout(sys.stderr):
        asyncio.run(main(noted))
    noted.tell()
