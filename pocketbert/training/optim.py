"""AdamW with warm-up and linear decay."""

import math

import torch


def prepare_for_training(model, args):
    """Apply --dropout and --freeze."""
    if model.config.stored_formats:
        raise ValueError("a quantized model cannot be trained: train its fp32 parent")
    if args.dropout is not None:
        for module in model.modules():
            if hasattr(module, "dropout"):
                module.dropout = args.dropout
        model.config.hidden_dropout = model.config.attention_dropout = model.config.classifier_dropout = args.dropout
    if args.freeze > len(model.layers):
        raise ValueError(f"--freeze {args.freeze}: the model has {len(model.layers)} layers")
    if args.freeze:
        for part in (model.embeddings, *model.layers[:args.freeze]):
            part.requires_grad_(False)


class Optimizer:
    """AdamW with warm-up, linear decay, clipping and accumulation behind one `step(loss)`.

        lr(t) = peak * min(t / warmup_steps, (steps + 1 - t) / (steps - warmup_steps)),    t = 1 ... steps

    Biases and LayerNorms (all vectors) are not decayed. `step` is called once a batch, after loss.backward();
    it averages the gradients of `accumulate` batches, clips their global norm and moves the weights.
    """

    def __init__(self, model, args, num_batches):
        trained = [p for p in model.parameters() if p.requires_grad]
        self.accumulate, self.max_grad_norm = args.accumulate, args.max_grad_norm
        self.trained, self.num_batches, self.batch, self.pending = trained, num_batches, 0, 0
        groups = [{"params": [p for p in trained if p.dim() > 1], "weight_decay": args.weight_decay},
                  {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0}]
        fused = trained[0].device.type in ("cpu", "cuda")
        self.adamw = torch.optim.AdamW(groups, lr=args.lr, fused=fused)
        steps = max(1, math.ceil(num_batches / args.accumulate))
        warmup = round(args.warmup * steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, lambda t: min(
            (t + 1) / max(1, warmup), max(0, steps - t) / max(1, steps - warmup)))

    def step(self, loss):
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at batch {self.batch + 1}: lower --lr "
                                     f"(now {self.schedule.get_last_lr()[0]:.2g}) or train without --bf16")
        self.batch, self.pending = self.batch + 1, self.pending + 1
        if self.pending < self.accumulate and self.batch < self.num_batches:
            return
        if self.pending > 1:
            torch._foreach_div_([p.grad for p in self.trained if p.grad is not None], self.pending)
        if self.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm)
        self.adamw.step()
        self.schedule.step()
        self.adamw.zero_grad()
        self.pending = 0
