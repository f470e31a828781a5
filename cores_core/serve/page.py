"""The page of a server (Gradio): choose an image, ask, see both masks, ask again, download the mask and its JSON.

Files: Gradio stores uploads and pictures in its own temporary folder, where those of an hour ago and, when the server
stops, all are removed. No other folder can be read through it. Downloads are data URLs within the page.
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from cores_core.errors import CoresError, DataError
from cores_core.sample import Query, RgbImage
from cores_core.serve.answers import ask, draw_overlay, render_mask
from cores_core.serve.queue import AnswerQueue, Reply, Upload

CACHE_SECONDS = 3600
"""Age at which files of the page are removed."""
CHECK_SECONDS = 300
STYLE = """
.cores-details a { display: inline-block; margin: 0.4em 0.6em 0 0; padding: 0.45em 0.9em; border-radius: 6px;
  border: 1px solid var(--border-color-primary); text-decoration: none; color: var(--body-text-color); }
.cores-details p { margin: 0 0 0.3em 0; }
"""
FONTS = ["system-ui", "sans-serif"]
"""Of the machine that shows the page: nothing is loaded from the internet."""


def mount_page(app: FastAPI, queue: AnswerQueue) -> Path:
    """Add the page to an application, at / and for all paths that it does not have itself.

    Returns:
        The folder of uploads.
    """
    page = build_page(queue)
    page.has_launched = True  # else Gradio does not check which files an event names
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        allowed_paths=[],
        show_error=False,
        max_file_size=queue.limits.upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        css=STYLE,
    )
    return Path(page.GRADIO_CACHE)


def build_page(queue: AnswerQueue) -> gr.Blocks:
    """The page, whose questions are answered by `queue`."""

    async def answer(image: Any, question: Any, is_phrase: Any) -> tuple[RgbImage | None, str]:
        try:
            upload = await run_in_threadpool(_read_upload, image)
            reply = await ask(queue, upload, [Query(str(question or ""), is_sentence=not is_phrase)])
        except CoresError as error:
            return None, render_error(error)
        overlay = await run_in_threadpool(draw_overlay, reply.image, reply.rows[0])
        return overlay, await run_in_threadpool(render_details, upload, reply)

    with gr.Blocks(title="cores", analytics_enabled=False, delete_cache=(CHECK_SECONDS, CACHE_SECONDS)) as page:
        gr.Markdown(f"## cores\nAsk an image a question and get the mask of the answer. Model: `{queue.model}`")
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=360,
                    elem_id="image",
                )
                question = gr.Textbox(
                    label="Question",
                    placeholder="Which part steers the fish?",
                    max_length=queue.limits.characters,
                    elem_id="question",
                )
                is_phrase = gr.Checkbox(label="It is a bare phrase, such as: tail of the fish", elem_id="phrase")
                button = gr.Button("Ask", variant="primary", elem_id="ask")
            with gr.Column():
                overlay = gr.Image(
                    label="Answer",
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                    elem_id="answer",
                )
                details = gr.HTML(elem_id="details")
        gr.on(
            [button.click, question.submit],
            answer,
            [image, question, is_phrase],
            [overlay, details],
            preprocess=False,  # Gradio would open the image itself, with any of Pillow's formats
            api_visibility="private",
            concurrency_limit=None,
            scroll_to_output=True,
        )
    page.queue(max_size=queue.limits.waiting)
    return page


def render_details(upload: Upload, reply: Reply) -> str:
    """Numbers of an answer and links that download its mask and its JSON, as HTML."""
    row = reply.rows[0]
    height, width = reply.image.shape[:2]
    found = f"score {row['score']:.2f}, {100 * row['area'] / (height * width):.1f} % of the image"
    if not row["area"]:
        found = "the image shows no such thing" if row["rejected"] else "nothing was found: the mask is empty"
    kept = "the image was encoded before" if reply.was_kept else "the image was encoded, further questions take less"
    mask = _link("Mask (PNG)", f"{upload.stem}.mask.png", "image/png", render_mask(row))
    text = json.dumps(row, ensure_ascii=False) + "\n"
    rows = _link("JSON", f"{upload.stem}.json", "application/json", text.encode("utf-8", "backslashreplace"))
    return f'<div class="cores-details"><p>{found}; {row["seconds"]:.2f} s, {kept}</p>{mask}{rows}</div>'


def render_error(error: CoresError) -> str:
    """What is wrong and what to do about it, as HTML."""
    hint = f"<p>{html.escape(error.hint)}</p>" if error.hint else ""
    return f'<div class="cores-details" role="alert"><p><b>{html.escape(error.message)}</b></p>{hint}</div>'


def _read_upload(image: Any) -> Upload:
    """The file that an event names, which `PageGuard` has found to be an upload."""
    if not image:
        raise DataError("choose an image first")
    path = Path(image["path"])
    return Upload(image.get("orig_name") or path.name, path.read_bytes())


def _link(label: str, name: str, kind: str, data: bytes) -> str:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return f'<a download="{html.escape(name)}" href="{url}">{label}</a>'
