"""What a run found out, as the JSON document that everything else is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.rounds import Refusal, Sample
from benchmarks.works import Work


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """One line of ``samples``: seconds and bytes."""
    cost = sample.cost
    document: dict[str, Any] = {
        "work": sample.work.name,
        "step": sample.step.value,
        "tool": sample.tool,
        "round": sample.round,
        "wall": round(cost.wall, 4),
        "client_cpu": round(cost.client_cpu, 3),
        "server_cpu": _rounded(cost.server_cpu),
        "other_cpu": _rounded(cost.other_cpu),
        "own_cpu": round(cost.own_cpu, 3),
        "peak_memory": cost.peak_memory,
    }
    if sample.traffic:
        document |= {
            "bytes_up": sample.traffic.up,
            "bytes_down": sample.traffic.down,
            "connections": sample.traffic.connections,
            "requests": dict(sample.traffic.requests),
            "refused": sample.traffic.refused,
        }
    if sample.account:
        document["account"] = dict(sample.account)
    return document


def refusal_to_json(refusal: Refusal) -> dict[str, Any]:
    return {
        "work": refusal.work.name,
        "step": refusal.step.value,
        "tool": refusal.tool,
        "reason": refusal.reason,
    }


def work_to_json(work: Work) -> dict[str, Any]:
    """What ``works`` says under the work's name."""
    return {
        "corpus": work.corpus,
        "server": work.server,
        "tls": work.tls,
        "link": str(work.link) if work.link else None,
        "cold": work.cold,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def merge(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The later run, with what the earlier one has of steps that were not measured again."""
    again = {(sample["work"], sample["step"]) for sample in later["samples"]}
    works = earlier["works"] | later["works"]
    order = {name: number for number, name in enumerate(works)}

    def both(name: str) -> list[dict[str, Any]]:
        kept = [entry for entry in earlier[name] if (entry["work"], entry["step"]) not in again]
        return sorted([*kept, *later[name]], key=lambda entry: order[entry["work"]])

    return {
        **later,
        "started": f"{earlier['started']}, in part again {later['started']}",
        "works": works,
        **{name: both(name) for name in ("samples", "refusals")},
        **{name: earlier[name] | later[name] for name in ("servers", "tools", "corpora")},
        "sweeps": list({sweep["title"]: sweep for sweep in (*earlier["sweeps"], *later["sweeps"])}.values()),
        **{name: later.get(name) or earlier.get(name) for name in ("fleet_push", "delta")},
    }


def to_text(document: Mapping[str, Any]) -> str:
    """JSON with a line for each sample, which keeps it small and differences readable."""

    def value(content: Any) -> str:
        if isinstance(content, list) and content:
            return "[\n" + ",\n".join(map(json.dumps, content)) + "\n]"
        return json.dumps(content)

    return "{\n" + ",\n".join(f"{json.dumps(name)}: {value(content)}" for name, content in document.items()) + "\n}\n"
