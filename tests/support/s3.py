"""An imitation of S3, and what tests do to it."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class S3:
    """An imitation of S3 on this machine, with one bucket."""

    endpoint: str
    client: Any
    bucket: str = "studies"

    def address(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{prefix}"

    def keys(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def replace(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def refuse_everybody(self, *, after: float) -> None:
        """Answer this many more requests, and refuse all others, whose keys are unknown."""
        text = {"Content-Type": "text/plain"}
        url = f"{self.endpoint}/moto-api/reset-auth"
        with urllib.request.urlopen(urllib.request.Request(url, str(after).encode(), text, method="POST")):
            pass
