# SPDX-License-Identifier: Apache-2.0
"""The route table, and nothing else."""

from __future__ import annotations

from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import SglError
from sgl_runtime.http import encode, errors, info, metrics, native, openapi, page, profile, tokens
from sgl_runtime.http.anthropic import messages
from sgl_runtime.http.api import Api
from sgl_runtime.http.auth import BearerKey
from sgl_runtime.http.kinds import for_embeddings, for_scores, for_text, for_vectors
from sgl_runtime.http.limits import Bodies, Limits
from sgl_runtime.http.openai import chat, classify, completions, decisions, embeddings, models, score
from sgl_runtime.http.openai.batches import endpoint as batches
from sgl_runtime.http.openai.batches import files
from sgl_runtime.http.openai.batches.upload import FORM_SIZE
from sgl_runtime.http.openai.responses import endpoint as responses
from sgl_runtime.http.sites import Sites, own_hosts


def build_app(api: Api) -> Starlette:
    """The ASGI application."""
    app = Starlette(
        routes=[
            # They are looked through in order, for every request: first what is asked for most.
            Route("/v1/completions", for_text(api, completions.completions), methods=["POST"]),
            Route("/v1/chat/completions", for_text(api, chat.chat_completions), methods=["POST"]),
            Route("/generate", for_text(api, native.generate), methods=["POST", "PUT"]),
            Route("/v1/messages", for_text(api, messages.messages), methods=["POST"]),
            Route("/v1/responses", for_text(api, responses.responses), methods=["POST"]),
            Route("/", partial(page.page, api)),
            Route("/page/{name}", partial(page.page_file, api)),
            Route("/encode", for_vectors(api, encode.encode), methods=["POST", "PUT"]),
            Route("/health", partial(info.health, api)),
            Route("/health_generate", partial(info.health_generate, api)),
            Route("/get_model_info", partial(info.get_model_info, api)),
            Route("/get_server_args", partial(info.get_server_args, api)),
            Route("/server_info", partial(info.server_info, api)),
            Route("/openapi.json", partial(openapi.openapi, api)),
            Route("/metrics", partial(metrics.metrics, api)),
            Route("/flush_cache", partial(info.flush_cache, api), methods=["GET", "POST"]),
            Route("/abort_request", partial(info.abort_request, api), methods=["POST"]),
            Route("/start_profile", partial(profile.start_profile, api), methods=["POST"]),
            Route("/stop_profile", partial(profile.stop_profile, api), methods=["POST"]),
            Route("/tokenize", partial(tokens.tokenize, api), methods=["POST"]),
            Route("/detokenize", partial(tokens.detokenize, api), methods=["POST"]),
            Route("/v1/models", partial(models.list_models, api)),
            Route("/v1/models/{id:path}", partial(models.get_model, api)),
            Route("/v1/embeddings", for_embeddings(api, embeddings.embeddings), methods=["POST"]),
            Route("/v1/score", for_text(api, score.score), methods=["POST"]),
            Route("/v1/decisions", for_text(api, decisions.decisions), methods=["POST"]),
            Route("/v1/classify", for_scores(api, classify.classify), methods=["POST"]),
            Route("/v1/responses/{id}", partial(responses.get_response, api)),
            Route("/v1/responses/{id}", partial(responses.delete_response, api), methods=["DELETE"]),
            Route("/v1/files", partial(files.create_file, api), methods=["POST"]),
            Route("/v1/files", partial(files.list_files, api)),
            Route("/v1/files/{id}", partial(files.get_file, api)),
            Route("/v1/files/{id}", partial(files.delete_file, api), methods=["DELETE"]),
            Route("/v1/files/{id}/content", partial(files.get_content, api)),
            Route("/v1/batches", partial(batches.create_batch, api), methods=["POST"]),
            Route("/v1/batches", partial(batches.list_batches, api)),
            Route("/v1/batches/{id}", partial(batches.get_batch, api)),
            Route("/v1/batches/{id}/cancel", partial(batches.cancel_batch, api), methods=["POST"]),
            Route("/v1/messages/count_tokens", partial(messages.count_tokens, api), methods=["POST"]),
        ],
        middleware=_middleware(api.config),
        exception_handlers={
            SglError: errors.on_sgl_error,
            HTTPException: errors.on_http_error,
            ClientDisconnect: errors.on_client_left,
            Exception: errors.on_bug,
        },
    )
    # Where it leads would be for the Host header to say, and what was asked in private would go there.
    app.router.redirect_slashes = False
    return app


def _middleware(config: ServeConfig) -> list[Middleware]:
    """From the outside in. A browser asks without the key whether it may send it, so CORS comes first."""
    outer: list[Middleware] = []
    if config.cors_allow_origins:
        outer.append(
            Middleware(
                CORSMiddleware,
                allow_origins=config.cors_allow_origins,
                allow_methods=["GET", "POST", "PUT", "DELETE"],
                allow_headers=["*"],
            )
        )
    bodies = Bodies(config.max_body_size, config.body_timeout, "--max-body-size")
    # A file may be as slow as any other body.
    file_size = config.max_file_size + FORM_SIZE
    file_seconds = config.body_timeout * max(1.0, file_size / config.max_body_size)
    uploads = {"/v1/files": Bodies(file_size, file_seconds, "--max-file-size")}
    limits = Middleware(Limits, bodies=bodies, uploads=uploads, send_seconds=config.send_timeout)
    sites = Middleware(Sites, origins=config.cors_allow_origins, hosts=own_hosts(config))
    key = [] if config.api_key is None else [Middleware(BearerKey, key=config.api_key)]
    return [*outer, limits, sites, *key]
