"""A real LLM server: llama.cpp with a model of random weights whose tokens are bytes.

The tokens of a text are its UTF-8 bytes, so every count can be known beforehand: a chat of one user message
has `PROMPT_TOKENS` more than its content has bytes. The model only says lower-case letters and spaces and
never ends by itself, so an answer has as many characters as tokens: the request's cap, or
`DEFAULT_OUTPUT_TOKENS`. The same server generates and embeds. It runs in a process of its own, which ends when
its input does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROMPT_TOKENS = 18
DEFAULT_OUTPUT_TOKENS = 64
SLOTS = 8
SLOT_TOKENS = 8192
EMBEDDING_TOKENS = 2048  # an input to embed has to fit in one batch
MODEL = "byte-llama"

_WIDTH, _HIDDEN, _HEADS = 64, 128, 4
_START, _END = 256, 257


def missing() -> str | None:
    """Which package is not installed, if any."""
    absent = [name for name in ("xllamacpp", "gguf", "numpy") if find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Llama:
    """The server, as a context manager; ready when it is made."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="byte-llama-")
        self._log = Path(self._folder.name) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, self._folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().strip()
        if not self.url:
            log_text = self._log.read_text(errors="replace")
            self.close()
            raise RuntimeError(f"the llama.cpp server did not start:\n{log_text}")

    @property
    def openai_url(self) -> str:
        """The ``base_url`` for OpenAI's SDK."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The ``base_url`` for Anthropic's SDK, which adds ``/v1`` itself."""
        return self.url

    def close(self) -> None:
        """End the process and remove its files."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _serve(folder: Path) -> None:
    llama: Any = import_module("xllamacpp")  # it has no types
    model = folder / "model.gguf"
    _write_model(model)
    params = llama.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * SLOT_TOKENS
    params.n_predict = DEFAULT_OUTPUT_TOKENS
    params.n_threads_http = 96  # a connection that is kept alive occupies one
    params.sampling.temp = 0.0
    params.verbosity = 1
    params.warmup = False
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = 1
        cpu.poll = 0
    params.embedding = True  # it generates all the same
    params.pooling_type = llama.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_batch = params.n_ubatch = EMBEDDING_TOKENS
    server = llama.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # its destructor would wait for open connections


def _write_model(path: Path) -> None:
    gguf: Any = import_module("gguf")  # it and numpy may be missing where types are checked
    np: Any = import_module("numpy")
    names = _names_of_bytes()
    tokens = [*names, "<|start|>", "<|end|>"]
    rng = np.random.default_rng(7)

    def weights(*shape: int, scale: float) -> Any:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    embedding = weights(len(tokens), _WIDTH, scale=1.0)
    embedding[:, 0] = 8.0  # a feature that is always on, by which the output can be kept to letters
    output = weights(len(tokens), _WIDTH, scale=0.3)
    output[:, 0] = -50.0
    output[[*b" abcdefghijklmnopqrstuvwxyz"], 0] = 0.0

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(MODEL)
    writer.add_context_length(SLOT_TOKENS)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges([f"{names[255]} {names[255]}"])  # there has to be one; no UTF-8 text has this byte
    writer.add_bos_token_id(_START)
    writer.add_eos_token_id(_END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(
        "{% for m in messages %}{{ '<|start|>' + m.role + '\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
        "{{ '<|start|>assistant' }}"
    )
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(_WIDTH, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", weights(_WIDTH, _WIDTH, scale=0.1))
    writer.add_tensor("blk.0.ffn_gate.weight", weights(_HIDDEN, _WIDTH, scale=0.1))
    writer.add_tensor("blk.0.ffn_up.weight", weights(_HIDDEN, _WIDTH, scale=0.1))
    writer.add_tensor("blk.0.ffn_down.weight", weights(_WIDTH, _HIDDEN, scale=0.1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _names_of_bytes() -> list[str]:
    """The character by which a GPT-2 vocabulary names each byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
