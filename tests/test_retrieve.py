"""`metaformer retrieve`: the numbers against a straightforward loop over every pair, one at a time."""

from __future__ import annotations

import json

import pytest
import torch

from metaformer.errors import UsageError
from metaformer.evaluate import restore
from metaformer.metrics.retrieval import MedianRank, Recall, rank_in, recall
from metaformer.retrieve import reranked, retrieve_command
from metaformer.run import open_run
from metaformer.train import train_command
from tests.faulty import PAIRS, only_run, plugin

PAIR = "between: [vector, words], same: words"
SETS = (
    f"tasks.pairs.objective=[{{use: contrastive, {PAIR}}}, {{use: matching, head: match, {PAIR}}}]",
    "tasks.pairs.metrics=[recall@1, median_rank, {use: accuracy, head: match}]",
    "steps=20",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, plugin(patch):
        output = tmp_path_factory.mktemp("retrieve")
        train_command([PAIRS], [*SETS, f"output={output}"], "never")
        yield only_run(output, "pairs")


def test_numbers_are_those_of_a_loop_over_all_pairs(run, tmp_path, capsys):
    retrieve_command(run, rerank="match", candidates=4, output=tmp_path / "out.json")
    said = json.loads((tmp_path / "out.json").read_text())
    assert "re-ranked by match" in capsys.readouterr().out
    opened, model, _ = restore(open_run(run), "best")
    from metaformer.build import open_data
    from metaformer.data.order import Address

    reader = open_data(opened.recipe, model, opened.base)["pairs"].valid
    items = [reader.read(Address("pairs", 0, i)) for i in range(len(reader))]
    texts = [int(item.targets["words"]) for item in items]
    with torch.inference_mode():
        singles = [reader.collate([item]) for item in items]
        vectors = torch.cat([model.predict(one, "vector").value for one in singles])
        words = torch.cat([model.predict(one, "words").value for one in singles])
        hits = {1: 0, 5: 0, 10: 0}
        hits_again = {1: 0, 5: 0, 10: 0}
        first = [texts.index(text) for text in dict.fromkeys(texts)]  # each text once
        for i in range(len(items)):
            scores = [float(vectors[i] @ words[j]) for j in first]
            order = sorted(range(len(first)), key=lambda k: -scores[k])
            fits = {}
            for k in order[:4]:
                pair = reader.collate([items[i]])
                other = reader.collate([items[first[k]]])
                pair.streams["words"], pair.present["words"] = other.streams["words"], other.present["words"]
                fits[k] = float(model.predict(pair, "match").value[0, 1])
            again = sorted(order[:4], key=lambda k: -fits[k]) + order[4:]
            for ranking, count in ((order, hits), (again, hits_again)):
                place = next(p for p, k in enumerate(ranking) if texts[first[k]] == texts[i])
                for top in count:
                    count[top] += place < top
    for how, count in (("by embedding", hits), ("re-ranked by match", hits_again)):
        found = said[f"vector → words, {how}"]
        assert found["queries"] == len(items)
        assert found["keys"] == len(first)
        for top, hit in count.items():
            assert found[f"recall@{top}"] == pytest.approx(hit / len(items)), how


def test_it_agrees_with_the_metrics_of_the_run(run, tmp_path):
    retrieve_command(run, output=tmp_path / "out.json")
    said = json.loads((tmp_path / "out.json").read_text())
    record = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]["metrics"]
    both = [said[f"{name}, by embedding"] for name in ("vector → words", "words → vector")]
    assert record["pairs/recall@1"] == pytest.approx(sum(b["recall@1"] for b in both) / 2)
    assert record["pairs/median_rank"] == pytest.approx(sum(b["median rank"] for b in both) / 2)


@pytest.mark.parametrize(("options", "says"), [({"rerank": "said"}, "two classes"), ({"task": "x"}, "belong")])
def test_what_is_not_there_is_said(run, options, says):
    with pytest.raises(UsageError, match=says):
        retrieve_command(run, **options)


def test_several_captions_of_a_picture_are_its_partners_and_the_picture_counts_once():
    pictures = torch.eye(3).repeat_interleave(2, dim=0)
    captions = torch.tensor([[1, 0, 0.1], [0, 1, 0.2], [0, 1, 0], [0.1, 0, 1], [0, 0, 1], [0, 0.9, 0.8]])
    what = torch.tensor([5, 5, 6, 6, 7, 7])
    found = {}
    for direction in ("there", "back"):
        metric = Recall(top_k=1, direction=direction)
        for rows in (slice(0, 3), slice(3, 6)):
            metric.update(pictures[rows], captions[rows], what[rows])
        found[direction] = metric
    # Three pictures. The second caption of the first and the first of the second are as near to the second picture.
    assert len(found["there"].ranks()[0]) == 3
    assert found["there"].compute() == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    # Six captions: the second is nearest to the second picture, the fourth to the third, the last to the second.
    assert len(found["back"].ranks()[0]) == 6
    assert found["back"].compute() == pytest.approx(3 / 6)
    median = MedianRank(direction="back")
    median.update(pictures, captions, what)
    assert median.compute() == pytest.approx(1.5)


def test_candidates_come_first_and_the_others_keep_their_order():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    again = reranked(scores, torch.tensor([[-3.0, 4.0]]), torch.tensor([[0, 1]]))
    assert again.argsort(dim=1, descending=True).tolist() == [[1, 0, 2, 3]]
    own = torch.tensor([[False, False, True, False]])
    assert recall(rank_in(again, own), 2) == 0
    assert recall(rank_in(again, own), 3) == 1
