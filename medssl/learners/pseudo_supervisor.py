"""Pseudo supervisor: a second network proposes labels for unlabelled scans, and is rewarded where learning them helped.

Luo et al. (Harvard-GDP), ICCV 2023. The proposer is a policy whose actions are labels; the reward is how much the loss on
labelled scans set aside fell by the step that learned them. Differs from the public code: an action's log-probability is
of its own scan, not of all of a batch; rewards that are all equal change nothing; the scans set aside are of the labelled
patients, so that whoever learns from labels alone has the same ones; the network is in eval mode when it is judged; in
turn one step learns from labels and one from proposals; the policy moves in the step after its rewards are complete.
"""

# N remembered steps, B scans
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medssl.learners.mixed import Mixed
from medssl.learners.supervised import Supervised
from medssl.recipe import Count, Positive, Share
from medssl.views.history import Told


class PseudoSupervisor(nn.Module):
    """In turn the task's loss and the cross-entropy with proposed labels; after every `window` of these the policy's loss.

    `alpha` scales rewards, `discount` hands them on to the steps before, as long as there are rewards without a gap. The
    policy's step takes the time of a window, which --dry-run does not see. `policy_rate` is the policy's share of the
    learning rate, `aside` the share of the labelled patients that are set aside.
    """

    wants, answers, alone = ("unlabelled", "judged"), "", True
    spent = False
    done: torch.Tensor
    known: torch.Tensor
    views: torch.Tensor
    covariates: torch.Tensor
    days: torch.Tensor
    groups: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor

    def __init__(
        self,
        model: Supervised,
        policy: Supervised,
        *,
        shape: tuple[int, ...],
        told: tuple[int, ...] = (0, 0, 0),
        alpha: Positive = 1.0,
        discount: Share = 0.9,
        window: Count = 50,
        policy_rate: Positive = 1.0,
        aside: Share = 0.5,
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.added, self.whole = model.trunk, model.head, model.added, (model,)
        self.policy, self.aside = policy, aside
        self.alpha, self.discount, self.policy_rate = alpha, discount, policy_rate
        # All of it is in the checkpoint: a run that goes on has the same rewards before it.
        for name in ("done", "known"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("views", torch.zeros(window, *shape))
        for name, many in zip(Told._fields, told, strict=True):
            self.register_buffer(name, torch.zeros(window, shape[0], many, 2))  # a number, and whether it is known
        self.register_buffer("actions", torch.zeros(window, shape[0]))
        self.register_buffer("rewards", torch.zeros(window))
        self.turn: tuple[Mixed, float] | None = None

    def forward(self, batch: Mixed) -> dict[str, torch.Tensor]:
        """The losses of this step; 0 of what it has not its turn."""
        (model,) = self.whole
        losses = dict.fromkeys(("task", "proposed", "policy"), torch.zeros((), device=batch.labelled.x.device))
        self.turn = None
        if int(self.done) % 2 == 0:
            self.spent = int(self.known) == len(self.rewards)  # which only a step of proposals makes it
            if self.spent:
                losses["policy"] = self._of_policy()
            return {**losses, "task": model(batch.labelled)["task"]}
        assert batch.unlabelled is not None
        x, told = batch.unlabelled.x[0], batch.unlabelled.told
        with torch.no_grad():
            action = torch.bernoulli(torch.sigmoid(self.policy.answer(x, told).float()))
        if self.training:
            self._remember(x, told, action)
            self.turn = (batch, self.judged(batch))
        guess = functional.binary_cross_entropy_with_logits(model.answer(x, told).float(), action)
        return {**losses, "proposed": guess}

    def _remember(self, x: torch.Tensor, told: Told, action: torch.Tensor) -> None:
        number = int(self.known)
        self.views[number], self.actions[number] = x, action
        for kept, part in zip(self._kept(), told, strict=True):
            if part.numel():
                kept[number] = torch.stack([part.nan_to_num(), part.isfinite()], -1)

    def _kept(self) -> tuple[torch.Tensor, ...]:
        return self.covariates, self.days, self.groups

    def _remembered(self, number: int) -> tuple[torch.Tensor, Told, torch.Tensor]:
        told = (torch.where(kept[number, ..., 1] > 0, kept[number, ..., 0], torch.nan) for kept in self._kept())
        return self.views[number], Told(*told), self.actions[number]

    @torch.no_grad()
    def judged(self, batch: Mixed) -> float:
        """The network's loss on the scans set aside."""
        assert batch.judged is not None
        (model,) = self.whole
        modes = [(part, part.training) for part in model.modules()]
        model.eval()
        with torch.autocast(batch.judged.x.device.type, enabled=False):  # before and after a step in one precision
            loss = model(batch.judged)["task"]
        for part, training in modes:
            part.training = training
        return float(loss)

    def after_step(self, steps: int) -> None:
        """Nothing; the step's proposals have their reward."""
        self.done += 1
        if self.spent:
            self.known.zero_()
            self.spent = False
        if self.turn is not None:
            batch, before = self.turn
            self.rewards[int(self.known)] = reward(before, self.judged(batch), self.alpha)
            self.known += 1
            self.turn = None

    def _of_policy(self) -> torch.Tensor:
        """The sum over steps of the mean over scans of -log probability of what was proposed, times its reward."""
        worth = standardised(discounted(self.rewards, self.discount))
        each = [
            checkpoint(self._likelihood, *self._remembered(number), use_reentrant=False) * one
            for number, one in enumerate(worth)
            if one != 0
        ]
        return torch.stack(each).sum() if each else self._likelihood(*self._remembered(0)) * 0

    def _likelihood(self, x: torch.Tensor, told: Told, action: torch.Tensor) -> torch.Tensor:
        return -log_probability(self.policy.answer(x, told).float(), action).mean()

    def rate_of(self, name: str) -> float:
        """As the network's; the policy's own."""
        return self.policy_rate if name.startswith("policy.") else self.whole[0].rate_of(name)

    def picture(self, batch: Mixed) -> dict[str, torch.Tensor]:
        """Labelled views."""
        return self.whole[0].picture(batch.labelled)


def reward(before: float, after: float, alpha: float) -> float:
    """How much better: max(exp(alpha (before - after)) - 1, 0)."""
    return max(float(torch.tensor(alpha * (before - after), dtype=torch.float64).exp()) - 1, 0.0)


def discounted(rewards: torch.Tensor, discount: float) -> torch.Tensor:
    """Rewards (N,) with those that followed at once, each step by `discount` less; a step without a reward keeps none and
    hands none on.
    """
    found, run = torch.zeros_like(rewards), 0.0
    for number in reversed(range(len(rewards))):
        run = 0.0 if rewards[number] == 0 else discount * run + float(rewards[number])
        found[number] = run
    return found


def standardised(rewards: torch.Tensor) -> torch.Tensor:
    """Less their mean, over their standard deviation (N,); zeros where all are equal."""
    spread = rewards.std(correction=0)
    return (rewards - rewards.mean()) / spread if spread > 0 else torch.zeros_like(rewards)


def log_probability(logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The log-probability (B,) of each scan's own action (B,), 0 or 1, given its logit (B,)."""
    if logits.shape != action.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and actions {tuple(action.shape)} are not of the same scans")
    return -functional.binary_cross_entropy_with_logits(logits, action, reduction="none")
