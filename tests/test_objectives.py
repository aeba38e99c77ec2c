"""Supervised objectives and metrics: what counts, what does not, parity with torch and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch.nn import functional as F

from metaformer.errors import MetaformerError
from metaformer.heads.classification import ClassificationHead
from metaformer.heads.projection import ProjectionHead
from metaformer.heads.regression import RegressionHead
from metaformer.heads.token_classification import TokenClassificationHead
from metaformer.metrics.standard import AUROC, F1, MAE, R2, RMSE, Accuracy, counting_rows
from metaformer.objectives.supervised import BinaryCrossEntropy, CrossEntropy, Regression
from metaformer.types import IGNORE, Target, TokenBatch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


PRESENT = torch.tensor([True, True, False, True])


def test_cross_entropy_means_over_rows_that_count():
    objective = CrossEntropy({"h": ClassificationHead(4, num_classes=3)}, head="h", label_smoothing=0.1)
    logits, target = torch.randn(4, 3), torch.tensor([0, IGNORE, 1, 2])
    expected = F.cross_entropy(logits[[0, 3]], target[[0, 3]], label_smoothing=0.1)
    torch.testing.assert_close(objective.loss(logits, target, PRESENT), expected)
    assert objective.targets == {"h": Target("class", 3)}


def test_cross_entropy_per_token_ignores_padding():
    objective = CrossEntropy({"h": TokenClassificationHead(4, num_classes=3)}, head="h", target="tags")
    logits = torch.randn(4, 5, 3)
    target = torch.randint(3, (4, 4))
    target[0, 2:] = IGNORE
    rows = PRESENT[:, None] & (target != IGNORE)
    torch.testing.assert_close(
        objective.loss(logits, target, PRESENT), F.cross_entropy(logits[:, :4][rows], target[rows])
    )
    assert objective.targets == {"tags": Target("classes", 3)}


def test_binary_cross_entropy_leaves_missing_labels_out():
    objective = BinaryCrossEntropy({"h": ClassificationHead(4, num_classes=3)}, head="h")
    logits, target = torch.randn(4, 3), torch.randint(2, (4, 3)).float()
    target[1, 1] = torch.nan
    counts = ~target.isnan() & PRESENT[:, None]
    expected = F.binary_cross_entropy_with_logits(logits[counts], target[counts])
    torch.testing.assert_close(objective.loss(logits, target, PRESENT), expected)


@pytest.mark.parametrize(
    ("error", "torch_loss"), [("squared", F.mse_loss), ("absolute", F.l1_loss), ("huber", F.smooth_l1_loss)]
)
def test_regression_is_in_the_heads_units(error, torch_loss):
    objective = Regression({"h": RegressionHead(4, num_outputs=2, scale=5.0, shift=3.0)}, head="h", error=error)
    value, target = torch.randn(4, 2).requires_grad_(), torch.randn(4, 2)
    target[0, 0] = torch.nan
    counts = ~target.isnan() & PRESENT[:, None]
    loss = objective.loss(value, target, PRESENT)
    torch.testing.assert_close(loss, torch_loss(value[counts] / 5, target[counts] / 5))
    loss.backward()
    assert value.grad.isfinite().all()
    assert value.grad[0, 0] == 0


def test_a_head_that_predicts_something_else_is_refused():
    with pytest.raises(MetaformerError, match="embedding"):
        CrossEntropy({"h": ProjectionHead(4)}, head="h")
    with pytest.raises(MetaformerError, match="heads: h"):
        CrossEntropy({"h": ClassificationHead(4, num_classes=2)}, head="x")


def test_heads_pool_and_shape():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    tokens = TokenBatch(torch.randn(2, 3, 8), mask, "x", num_prefix=1)
    cls = ClassificationHead(8, num_classes=3)
    mean = ClassificationHead(8, num_classes=3, pool="mean")
    mean.load_state_dict(cls.state_dict())
    spoiled = tokens.with_x(tokens.x.masked_fill(~mask.unsqueeze(-1), 1e3))
    assert torch.equal(cls(tokens), cls(spoiled))
    torch.testing.assert_close(mean(tokens), mean(spoiled))
    torch.testing.assert_close(cls(tokens)[1], mean(tokens)[1])
    assert not torch.allclose(cls(tokens)[0], mean(tokens)[0])
    assert TokenClassificationHead(8, num_classes=5)(tokens).shape == (2, 2, 5)
    torch.testing.assert_close(ProjectionHead(8, size=4)(tokens).norm(dim=1), torch.ones(2))


def test_an_embedding_without_a_linear_layer():
    tokens = TokenBatch(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool), "x")
    head = ProjectionHead(8, size=None, norm=False)
    assert (head.size, [*head.parameters()]) == (8, [])
    torch.testing.assert_close(head(tokens), torch.nn.functional.normalize(tokens.x.mean(1), dim=1))
    normed = ProjectionHead(8, size=None)
    state = normed.state_dict()
    assert normed.translate(state).keys() == state.keys() == {"norm.weight", "norm.bias"}
    with pytest.raises(MetaformerError, match="size: null"):
        ProjectionHead(8, size=None, bias=True)


def test_metrics_equal_scikit_learn():
    head, target = ClassificationHead(4, num_classes=3), Target("class", 3)
    logits, truth = torch.randn(50, 3), torch.randint(3, (50,))
    guess = logits.argmax(1)
    best2 = logits.topk(2, dim=1).indices
    probabilities = logits.softmax(1)
    expected = {
        Accuracy(head, target): sk.accuracy_score(truth, guess),
        Accuracy(head, target, top_k=2): (best2 == truth[:, None]).any(1).float().mean().item(),
        F1(head, target): sk.f1_score(truth, guess, average="macro"),
        AUROC(head, target): sk.roc_auc_score(truth, probabilities, multi_class="ovr"),
    }
    for metric, value in expected.items():
        metric.update(logits[:20], truth[:20])
        metric.update(logits[20:], truth[20:])
        assert metric.compute() == pytest.approx(value, abs=1e-6)


def test_multilabel_metrics_leave_missing_labels_out():
    head, target = ClassificationHead(4, num_classes=2), Target("multilabel", 2)
    logits, truth = torch.randn(40, 2), torch.randint(2, (40, 2)).float()
    truth[3, 1] = torch.nan
    metric = Accuracy(head, target)
    metric.update(logits, truth)
    keep = ~truth.isnan()
    assert metric.compute() == pytest.approx(((logits > 0) == (truth == 1))[keep].float().mean().item(), abs=0.02)


def test_regression_metrics_equal_scikit_learn():
    value, truth = torch.randn(30, 1), torch.randn(30, 1)
    for metric, expected in (
        (MAE(), sk.mean_absolute_error(truth, value)),
        (RMSE(), sk.root_mean_squared_error(truth, value)),
        (R2(RegressionHead(4)), sk.r2_score(truth, value)),
    ):
        metric.update(value, truth)
        metric.update(value[:1], torch.tensor([[np.nan]]))
        assert metric.compute() == pytest.approx(expected, rel=1e-5)


def test_counting_rows():
    assert counting_rows(Target("class", 3), torch.tensor([0, IGNORE, 1, 2]), PRESENT).tolist() == [1, 0, 0, 1]
    tags = torch.tensor([[0, IGNORE]] * 4)
    assert counting_rows(Target("classes", 3), tags, PRESENT).tolist() == [[1, 0], [1, 0], [0, 0], [1, 0]]
    values = torch.tensor([[1.0], [torch.nan], [1.0], [2.0]])
    assert counting_rows(Target("values", 1), values, PRESENT).tolist() == [1, 0, 0, 1]
