"""Limits in policy.yaml that are lowered between two runs of `sealbus up`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import sealbus
from tests.cli.folders import up
from tests.ports import free_port

LIMITS = ("accepted_bytes", "ingress_bytes", "quarantine_bytes", "live_bytes")


def test_a_bus_whose_limits_were_lowered_starts(tmp_path: Path) -> None:
    port = free_port()
    assert sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
    policy = tmp_path / "mybus/policy.yaml"
    text = policy.read_text()
    for size in ("3MiB", "1MiB", "2MiB"):
        sizes = "".join(f"\n  {limit}: {size}" for limit in LIMITS)
        policy.write_text(
            text.replace("\nlimits:", f"\nlimits:{sizes}")
            if "\nlimits:" in text
            else f"{text}\nlimits:{sizes}\n"
        )
        with up(tmp_path, "--port", str(port)):
            assert (
                sealbus(
                    "pub", "greetings.sent", '{"text": "hello"}', "--as", "greeter", cwd=tmp_path
                ).code
                == 0
            )
