"""The three trainings: autoencoder, denoiser with its text encoder, prompt enhancer.

All run eagerly in BF16 with FP32 master weights, so that what is trained is what a BF16 pipeline computes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from miniature import networks
from miniature.data import Posters, Size

State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps` in all, on a cosine from `rate` that would end after `horizon`; a run stops after `minutes`
    and can be resumed."""

    steps: int
    horizon: int
    batch: int
    rate: float
    warmup: int = 200
    decay: float = 0.01  # weight decay
    average: float = 0.999  # of the exponential moving average of the weights
    minutes: float = 8.0


class Masters:
    """FP32 master weights of BF16 modules, AdamW over them, and their exponential moving average."""

    def __init__(self, modules: dict[str, torch.nn.Module], plan: Plan) -> None:
        self.plan = plan
        self.names = [
            f"{name}.{key}" for name, module in modules.items() for key, _ in module.named_parameters()
        ]
        self.live = [weight for module in modules.values() for weight in module.parameters()]
        self.fp32 = [weight.detach().float().clone().requires_grad_() for weight in self.live]
        self.mean = [weight.detach().clone() for weight in self.fp32]
        self.adam = torch.optim.AdamW(
            self.fp32, lr=plan.rate, betas=(0.9, 0.98), weight_decay=plan.decay, fused=self.live[0].is_cuda
        )

    def rate(self, step: int, first: int) -> float:
        """Cosine decay; a short warm-up whenever the optimizer's moments start at zero."""
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.plan.horizon)))
        return self.plan.rate * fall * min(1.0, (step - first + 1) / self.plan.warmup)

    def update(self, step: int, first: int) -> None:
        """One optimizer step from the live modules' gradients."""
        for master, weight in zip(self.fp32, self.live, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_([m for m in self.fp32 if m.grad is not None], 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.rate(step, first)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.fp32)
            average = min(self.plan.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(self.mean, [m.detach() for m in self.fp32], 1 - average)

    def save(self, path: Path, step: int) -> None:
        """Masters in FP32, averages in BF16; AdamW's moments stay behind, to keep the file under 60 MiB."""
        tensors = {f"master.{n}": m.detach().cpu() for n, m in zip(self.names, self.fp32, strict=True)}
        tensors |= {f"mean.{n}": m.bfloat16().cpu() for n, m in zip(self.names, self.mean, strict=True)}
        save_file(tensors, path, metadata={"step": str(step)})

    def load(self, path: Path) -> int:
        """Take up a saved state; the number of steps that it has behind it."""
        from safetensors import safe_open

        tensors = load_file(path, device=str(self.live[0].device))
        with torch.no_grad():
            for name, master, mean, live in zip(self.names, self.fp32, self.mean, self.live, strict=True):
                master.copy_(tensors[f"master.{name}"])
                mean.copy_(tensors[f"mean.{name}"])
                live.copy_(master)
        with safe_open(path, "pt") as file:
            return int(file.metadata()["step"])

    def use_mean(self) -> None:
        """Put the averaged weights into the live modules."""
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.mean)


def _run(
    masters: Masters, loss_of: Callable[[int], torch.Tensor], title: str, checkpoint: Path | None = None
) -> int:
    """Train until the plan's steps or minutes are over; the steps done, those of earlier runs included."""
    plan, began = masters.plan, time.monotonic()
    first = masters.load(checkpoint) if checkpoint and checkpoint.exists() else 0
    running: torch.Tensor | None = None
    step = first
    with tqdm(total=plan.steps, initial=first, desc=title, mininterval=10) as bar:
        for step in range(first, plan.steps):
            loss = loss_of(step)
            loss.backward()
            masters.update(step, first)
            running = loss.detach() if running is None else torch.lerp(running, loss.detach(), 0.02)
            bar.update()
            if step % 250 == 249:
                bar.set_postfix_str(f"loss {running.item():.4f}")
                if time.monotonic() - began > plan.minutes * 60:
                    break
    loss_now = math.nan if running is None else running.item()
    seconds = time.monotonic() - began
    print(f"{title}: {step + 1} of {plan.steps} steps, loss {loss_now:.4f}, {seconds:.0f} s", flush=True)
    if checkpoint:
        masters.save(checkpoint, step + 1)
    masters.use_mean()
    return step + 1


def _pixels(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, 3] to BF16 [N, 3, H, W] in [-1, 1], channels last."""
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).bfloat16()


def _gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def train_vae(posters: dict[Size, Posters], plan: Plan, device: str) -> tuple[Any, int]:
    """The autoencoder, and its steps: L1 on pixels and their gradients, and a little KL."""
    torch.manual_seed(1)
    vae = networks.vae().to(device, torch.bfloat16, memory_format=torch.channels_last)
    pictures = [torch.from_numpy(group.pictures).to(device) for group in posters.values()]
    generator = torch.Generator(device).manual_seed(1)

    def loss_of(step: int) -> torch.Tensor:
        group = pictures[step % len(pictures)]
        rows = torch.randint(len(group), (plan.batch,), generator=generator, device=device)
        target = _pixels(group[rows])
        posterior = vae.encode(target).latent_dist
        noise = torch.randn(
            posterior.mean.shape, generator=generator, device=device, dtype=posterior.mean.dtype
        )
        drawn = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        wanted = target.float()
        edges = sum(F.l1_loss(a, b) for a, b in zip(_gradients(drawn), _gradients(wanted), strict=True))
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return F.l1_loss(drawn, wanted) + edges + 2e-4 * kl

    done = _run(Masters({"vae": vae}, plan), loss_of, "vae")
    vae.eval()
    with torch.no_grad():
        latents = torch.cat([_flat(_encode(vae, group[:1500])) for group in pictures])
        vae.bn.running_mean.copy_(latents.mean(0))
        vae.bn.running_var.copy_(latents.var(0))
    return vae, done


def _flat(latents: torch.Tensor) -> torch.Tensor:
    return latents.float().movedim(1, -1).flatten(0, -2)


@torch.no_grad()
def _encode(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures to patchified latents [N, 64, H/8, W/8], not yet normalised."""
    from diffusers import ErnieImagePipeline

    parts = [vae.encode(_pixels(part)).latent_dist.mean for part in pictures.split(250)]
    return ErnieImagePipeline._patchify_latents(torch.cat(parts).contiguous())


def normalised_latents(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Latents as the pipeline denoises them: it undoes this with the same statistics and epsilon."""
    latents = _encode(vae, pictures)
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + 1e-5)
    return ((latents - mean) / std).bfloat16()


def train_denoiser(
    vae: Any, tokenizer: Any, posters: dict[Size, Posters], plan: Plan, device: str, checkpoint: Path
) -> tuple[Any, Any, int]:
    """Transformer and text encoder together: rectified flow towards noise − latents, levels shifted by 3."""
    torch.manual_seed(2)
    transformer = networks.transformer()
    for layer in (transformer.adaLN_modulation[-1], transformer.final_linear):
        torch.nn.init.normal_(layer.weight, std=0.01)
    text_encoder = networks.text_encoder()
    for module in (transformer, text_encoder):
        module.to(device, torch.bfloat16)
    groups = []
    for group in posters.values():
        parts = torch.from_numpy(group.pictures).split(2000)
        latents = torch.cat([normalised_latents(vae, part.to(device)) for part in parts])
        ids = tokenizer([poster.caption for poster in group.posters], return_tensors="pt")["input_ids"].to(
            device
        )
        groups.append((latents, ids))
    masters = Masters({"transformer": transformer, "text_encoder": text_encoder}, plan)
    generator = torch.Generator(device)

    def loss_of(step: int) -> torch.Tensor:
        generator.manual_seed(1000 + step)
        latents, ids = groups[step % len(groups)]
        rows = torch.randint(len(ids), (plan.batch,), generator=generator, device=device)
        clean, ids = latents[rows].float(), ids[rows]
        sigma = torch.sigmoid(torch.randn(plan.batch, generator=generator, device=device))
        sigma = 3 * sigma / (1 + 2 * sigma)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        mix = sigma.view(-1, 1, 1, 1)
        noisy = (mix * noise + (1 - mix) * clean).bfloat16()
        text = text_encoder.language_model(input_ids=ids, output_hidden_states=True).hidden_states[-2]
        lengths = torch.full((plan.batch,), ids.shape[1], device=device)
        found = transformer(noisy, (sigma * 1000).bfloat16(), text, lengths, return_dict=False)[0]
        return F.mse_loss(found.float(), noise - clean)

    done = _run(masters, loss_of, "denoiser", checkpoint)
    return transformer.eval(), text_encoder.eval(), done


def enhancer_ids(tokenizer: Any, posters: Sequence[Any]) -> Iterator[tuple[list[int], list[int]]]:
    """For each poster the ids of the prompt enhancer's input, and of the caption it should answer with."""
    for poster in posters:
        message = [{"role": "user", "content": networks.user_message(poster)}]
        asked = tokenizer.apply_chat_template(message, tokenize=False)
        yield (
            tokenizer(asked)["input_ids"],
            [*tokenizer(poster.caption, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id],
        )


def train_enhancer(tokenizer: Any, posters: Sequence[Any], plan: Plan, device: str) -> tuple[Any, int]:
    """The prompt enhancer, and its steps: next-token loss on the captions alone."""
    torch.manual_seed(3)
    enhancer = networks.prompt_enhancer().to(device, torch.bfloat16)
    pairs = list(enhancer_ids(tokenizer, posters))
    longest = max(len(asked) + len(answer) for asked, answer in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (asked, answer) in enumerate(pairs):
        whole = torch.tensor(asked + answer)
        ids[row, : len(whole)] = whole
        labels[row, len(asked) : len(whole)] = whole[len(asked) :]
    ids, labels = ids.to(device), labels.to(device)
    generator = torch.Generator(device).manual_seed(4)

    def loss_of(step: int) -> torch.Tensor:
        rows = torch.randint(len(ids), (plan.batch,), generator=generator, device=device)
        logits = enhancer(input_ids=ids[rows]).logits.float()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[rows][:, 1:].flatten(), ignore_index=-100)

    done = _run(Masters({"pe": enhancer}, plan), loss_of, "prompt enhancer")
    return enhancer.eval(), done
