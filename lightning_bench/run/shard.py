"""A shard: one of several parts of a plan, for machines that know nothing of each other."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lightning_bench.errors import UsageError
from lightning_bench.run.plan import Plan, by_shape


@dataclass(frozen=True)
class SweepShard:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> SweepShard:
        """Return the shard of a text such as `2/8`; UsageError for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        shard = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise UsageError(f"--shard {text!r} is no part of a sweep; allowed: 1/N to N/N, such as 2/8")
        return shard

    def part(self, plan: Plan) -> Plan:
        """Return the plan with every `count`-th shape: all cases of a shape are in one shard.

        It depends on the suite and the axes only, so that a shard that is run again has the same cases.
        """
        shapes = list(by_shape(plan.cases).values())[self.number - 1 :: self.count]
        return replace(plan, cases=tuple(case for cases in shapes for case in cases))
