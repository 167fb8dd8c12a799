"""AdamW for word tables: a step pays for the rows that its batch has read, and the weights are those of AdamW.

A batch of 32 tweets reads some 300 of a table's 30,522 rows. The gradient of the others is zero, yet AdamW (Loshchilov
and Hutter 2019, arXiv:1711.05101) moves them all in every step: its averages m and v fade, and what is left of m goes
on moving the row. From step t0 to step t, in which nothing reads the row, this is a sum that is known beforehand:

    m_t = beta1^(t - t0) m        v_t = beta2^(t - t0) v        w_t = keep w - drift m / (sqrt(v) + eps')

    keep  = product over s = t0 + 1 ... t of  1 - lr_s decay
    drift = sum over s = t0 + 1 ... t of  lr_s fade^(s - t0) sqrt(1 - beta2^s) / (1 - beta1^s)
            x product over r = s + 1 ... t of 1 - lr_r decay,        fade = beta1 / sqrt(beta2)

So a row is brought up to date when it is read next, before the forward pass, by a hook of the table. One thing is
approximated: in AdamW eps counts a little more in each of those steps, because v fades; eps' is their mean, weighted
as in `drift`, which is right but for terms of (eps / sqrt(v))^2. (torch.optim.SparseAdam lets the rows stand still,
which is another optimizer: there a word moves by one step for each time that it is read, here by about ten.)
"""

import numpy as np
import torch
from torch import nn

from pocketbert.errors import UserError

SMALLEST_TABLE = 2 ** 20  # numbers; below, updating all rows costs less than finding those that were read
CHUNK = 4096              # rows that are brought up to date at a time


class RowAdamW(torch.optim.AdamW):
    """torch.optim.AdamW, and the formula above for each parameter whose gradient is sparse.

        optimizer = RowAdamW(parameter_groups(model, weight_decay=0.01), lr=1e-4)
        optimizer.watch(model)              # without this line it is AdamW

    State of a table of R rows: exp_avg and exp_avg_sq (R, width) as in AdamW; `updated` (R,), the step that each row
    is up to date with; `rates`, the learning rate of every step so far. Scoring brings all rows up to date
    (predict.py): until then a saved table is complete only together with this state.
    """

    def __init__(self, params, lr, **options):
        super().__init__(params, lr=lr, fused=True, **options)
        self.unread = {}  # table -> Unread

    def watch(self, model):
        """From now on, update by rows the large tables of a model on the CPU that are trained."""
        found = False
        trained = {parameter for group in self.param_groups for parameter in group["params"]}
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.weight in trained and module.weight.device.type == "cpu" \
                    and module.weight.numel() >= SMALLEST_TABLE:
                module.sparse = True
                module.register_forward_pre_hook(self.before_reading)
                found = True
        if not found:
            raise UserError("--optimizer row-adamw is for word tables of a million numbers and more; this model trains "
                            "none: take --optimizer adamw")

    def before_reading(self, module, inputs):
        """Bring up to date what is read: in training these rows, in scoring all."""
        if module.weight in self.state:
            every = torch.arange(len(module.weight))
            for rows in inputs[0].unique().split(CHUNK) if module.training else every.split(CHUNK):
                self.catch_up(module.weight, rows)

    @torch.no_grad()
    def catch_up(self, table, rows):
        """Move rows to where AdamW would have moved them by now. rows: (n,) without repetition"""
        state = self.state[table]
        rows = rows[state["updated"][rows] < state["step"]]
        if len(rows) == 0:
            return
        since = state["updated"][rows]
        keep, drift, eps, fade_m, fade_v = (torch.from_numpy(part)[since, None].to(table.dtype)
                                            for part in self.unread_steps(table).factors())
        m, v = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        table[rows] = table[rows].mul_(keep).sub_(drift * m / v.sqrt().add_(eps))
        state["exp_avg"][rows] = m * fade_m
        state["exp_avg_sq"][rows] = v * fade_v
        state["updated"][rows] = int(state["step"])

    def step(self, closure=None):
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None and table.grad.is_sparse:
                    self.step_rows(table, table.grad.coalesce(), group)
                    table.grad = None  # AdamW does the others
        return super().step(closure)

    @torch.no_grad()
    def step_rows(self, table, grad, group):
        """A step of AdamW for the rows that a gradient has. grad: sparse and coalesced"""
        state = self.state[table]
        if not state:
            state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(table), exp_avg_sq=torch.zeros_like(table),
                         updated=torch.zeros(len(table), dtype=torch.int64), rates=[])
        rows, grad = grad.indices()[0], grad.values()
        self.catch_up(table, rows)
        lr, (beta1, beta2) = group["lr"], group["betas"]
        self.unread_steps(table).add(lr)
        state["rates"].append(lr)
        state["step"] += 1
        t = len(state["rates"])
        m = state["exp_avg"][rows].lerp_(grad, 1 - beta1)
        v = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["exp_avg"][rows] = m
        state["exp_avg_sq"][rows] = v
        state["updated"][rows] = t
        change = m.div_(1 - beta1 ** t) / v.div_(1 - beta2 ** t).sqrt_().add_(group["eps"])
        table[rows] = table[rows].mul_(1 - lr * group["weight_decay"]).sub_(change, alpha=lr)

    def unread_steps(self, table):
        """The table's Unread; after load_state_dict it is made again from the learning rates."""
        if table not in self.unread:
            group = next(group for group in self.param_groups if any(p is table for p in group["params"]))
            self.unread[table] = Unread(group["betas"], group["eps"], group["weight_decay"])
            for lr in self.state[table]["rates"]:
                self.unread[table].add(lr)
        return self.unread[table]

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.unread.clear()
        for state in self.state.values():
            if "updated" in state:  # torch makes every tensor of the state a float32; this one is exact below 2^24
                state["updated"] = state["updated"].long()


class Unread:
    """What the steps so far have done to a row that none of them has read since step t0 = 0, 1, ... now.

    keep, drift: (t + 1,) float64, as above; eps_drift: `drift` with each term times its eps / eps
    """

    def __init__(self, betas, eps, decay):
        self.betas, self.eps, self.decay = betas, eps, decay
        self.keep, self.drift, self.eps_drift = np.ones(1), np.zeros(1), np.zeros(1)

    def add(self, lr):
        """One more step."""
        beta1, beta2 = self.betas
        t = len(self.keep)
        unread = np.arange(t, 0, -1)  # steps since t0
        for values in (self.keep, self.drift, self.eps_drift):
            values *= 1 - lr * self.decay
        self.drift += lr * (beta1 / beta2 ** 0.5) ** unread * (1 - beta2 ** t) ** 0.5 / (1 - beta1 ** t)
        self.eps_drift += lr * (beta1 / beta2) ** unread * (1 - beta2 ** t) / (1 - beta1 ** t)
        self.keep = np.append(self.keep, 1.0)
        self.drift = np.append(self.drift, 0.0)
        self.eps_drift = np.append(self.eps_drift, 0.0)

    def factors(self):
        """keep, drift, eps', beta1^(t - t0), beta2^(t - t0): for each t0, (t + 1,) float64"""
        unread = np.arange(len(self.keep) - 1, -1, -1)
        eps = self.eps * np.divide(self.eps_drift, self.drift, out=np.ones_like(self.drift), where=self.drift > 0)
        return self.keep, self.drift, eps, self.betas[0] ** unread, self.betas[1] ** unread
