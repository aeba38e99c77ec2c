"""Zero-shot classification: the class whose description is nearest, without ever having been trained on the classes.

Source: CLIP (arXiv 2103.00020): the embeddings of a class's prompts are averaged and brought to unit length again.
Ours differs: the described side may be any modality, and so may the task's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Head, Objective, Whole
from metaformer.errors import MetaformerError
from metaformer.objectives.contrastive import embedding_size
from metaformer.types import IGNORE, Answer, Batch, Readout, Target

if TYPE_CHECKING:
    from metaformer.model import MetaFormer


class ZeroShot(Objective):
    """An embedding against those of sentences about each class; metrics judge it as `head: zero_shot`.

    between: the head of what is classified, and the head of the text.
    classes: how the classes are called, in the order of the data set's. templates: sentences with `{}` for the name.
    A task with `data.valid` only is evaluated and trains nothing; with `data.train` both towers learn.
    """

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        between: tuple[str, str],
        target: str,
        classes: Annotated[tuple[str, ...], Field(min_length=2)],
        templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("a photo of a {}.",),
        temperature: Annotated[float, Field(gt=0)] = 0.01,
    ) -> None:
        super().__init__()
        embedding_size(heads, between, "zero_shot")
        wrong = [t for t in templates if "{}" not in t]
        if wrong:
            raise MetaformerError("templates of zero_shot", f"no {{}} in {wrong[0]!r}", "put {} where the name goes")
        self.between, self.target, self.temperature = between, target, temperature
        self.prompts = [template.replace("{}", name) for name in classes for template in templates]
        self.names, self.num_templates = classes, len(templates)
        self.uses = (between[0],)
        form = Target("class", len(classes))
        self.targets = {target: form}
        self.judged = {"zero_shot": Readout(form, "class")}
        self._known: Tensor | None = None

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        logits, present, _ = self._say(model, batch)
        right = batch.targets[self.target].masked_fill(~present, IGNORE)
        counts = right != IGNORE
        if not self.training:
            batch.memo["judged", "zero_shot"] = (logits[counts], right[counts])
        total = F.cross_entropy(logits, right, ignore_index=IGNORE, reduction="sum")
        return {"zero_shot": total / counts.sum().clamp(min=1)}

    def answer(self, model: MetaFormer, batch: Batch) -> Answer | None:
        return self._say(model, batch) if model.sources(self.between[0]) <= batch.streams.keys() else None

    def _say(self, model: MetaFormer, batch: Batch) -> Answer:
        said = model.predict(batch, self.between[0])
        device = said.value.device
        with torch.autocast(device.type, enabled=False):
            logits = said.value.float() @ self.classes(model, device).T / self.temperature
        return Answer(logits, said.present, self.names)

    def classes(self, model: MetaFormer, device: torch.device) -> Float[Tensor, "C E"]:
        """An embedding per class; in evaluation made once."""
        keep = not self.training and not torch.is_grad_enabled()
        if self._known is not None and keep:
            return self._known
        (stream,) = model.sources(self.between[1])
        preprocess = model.tokenizer(stream).preprocess
        raw = preprocess.collate([preprocess(prompt, False) for prompt in self.prompts])
        here = torch.ones(len(self.prompts), dtype=torch.bool)
        batch = Batch("zero_shot", {stream: raw}, {stream: here}, {}, self.prompts).to(device)
        each = model.predict(batch, self.between[1]).value.float()
        found = F.normalize(each.view(-1, self.num_templates, each.shape[1]).mean(dim=1), dim=1)
        self._known = found if keep else None
        return found

    def count(self, model: MetaFormer, batch: Batch) -> dict[str, float]:
        present = model.present(batch, self.between[0])
        return {"zero_shot": float(((batch.targets[self.target] != IGNORE) & present).sum())}

    def updated(self, model: MetaFormer, whole: Whole) -> None:
        self._known = None
