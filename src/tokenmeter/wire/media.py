"""Images, audio, documents and video in a request: how many, how large, and which bytes of the body are theirs."""

from __future__ import annotations

from typing import Any

_KINDS = ("image", "document", "video", "audio")


class Media:
    """What a walk over the messages found; it knows the shapes of all protocols."""

    __slots__ = ("images", "media_bytes", "payload_bytes", "remote")

    def __init__(self) -> None:
        self.images = 0
        self.media_bytes = 0
        self.remote = 0
        self.payload_bytes = 0  # bytes of the body that are base64, not text

    def __bool__(self) -> bool:
        return bool(self.images or self.media_bytes or self.remote or self.payload_bytes)

    def walk(self, value: Any) -> None:
        """Look through one decoded value."""
        if type(value) is list:
            for item in value:
                if type(item) in (dict, list):
                    self.walk(item)
        elif type(value) is dict and not self._part(value):
            for item in value.values():
                if type(item) in (dict, list):
                    self.walk(item)

    def _part(self, part: dict[str, Any]) -> bool:
        """Take ``part`` if it is a piece of media."""
        for key in ("image_url", "video_url", "input_audio", "file"):
            if key in part and type(part[key]) in (dict, str):
                self._openai(key, part[key])
                return True
        kind = part.get("type") if type(part.get("type")) is str else None
        if kind in {"input_image", "computer_screenshot"}:
            self.images += 1
            return True
        if kind == "input_file":
            self._openai("file", part)
            return True
        for key in ("inlineData", "inline_data"):
            if type(blob := part.get(key)) is dict:
                mime = blob.get("mimeType") or blob.get("mime_type") or ""
                self._inline(blob.get("data"), image=str(mime).startswith("image/"))
                return True
        for key in ("fileData", "file_data"):
            if type(blob := part.get(key)) is dict:
                mime = blob.get("mimeType") or blob.get("mime_type") or ""
                self._remote(image=str(mime).startswith("image/"))
                return True
        if kind in _KINDS and (type(data := part.get("data")) is str or type(part.get("uri")) is str):
            self._openai("image_url" if kind == "image" else kind, {"data": data})
            return True
        if kind in _KINDS and type(part.get("source")) is dict:
            return self._source(part["source"], image=kind == "image")
        for key in _KINDS:
            if type(blob := part.get(key)) is dict and type(blob.get("source")) is dict:
                return self._source(blob["source"], image=key == "image")
        if type(images := part.get("images")) is list and any(type(image) is str for image in images):
            for image in images:
                self._inline(image, image=True)
            for key in ("content", "inputs"):
                self.walk(part.get(key))
            return True
        return False

    def _openai(self, key: str, value: Any) -> None:
        image = key == "image_url"
        if type(value) is dict:
            value = value.get("url") or value.get("data") or value.get("file_data")
        if type(value) is not str or value.startswith(("http:", "https:", "gs:")):
            self._remote(image=image)
        else:
            self._inline(value, image=image)

    def _source(self, source: dict[str, Any], *, image: bool) -> bool:
        """Anthropic's and Bedrock's sources: base64, bytes, an address, a file, or plain text."""
        data = source.get("data") if source.get("type") != "text" else None
        data = data if data is not None else source.get("bytes")
        if data is not None:
            self._inline(data, image=image)
        elif any(key in source for key in ("url", "file_id", "s3Location")):
            self._remote(image=image)
        else:  # text, or blocks that may hold images
            self.walk(source.get("content"))
        return True

    def _inline(self, data: Any, *, image: bool) -> None:
        payload = 0
        if type(data) is str:
            payload = len(data)
            if data.startswith("data:"):
                payload -= data.find(",", 0, 256) + 1
        self.payload_bytes += payload
        if image:
            self.images += 1
        else:
            self.media_bytes += payload * 3 // 4

    def _remote(self, *, image: bool) -> None:
        if image:
            self.images += 1
        else:
            self.remote += 1
