"""Published layouts, on small files of them; damaged ones are told by name."""

from __future__ import annotations

import json
import pickle

import pytest
from metaformer_plugin_pairs.captions import Karpathy
from metaformer_plugin_pairs.questions import VQAv2, normalize
from metaformer_plugin_pairs.sentences import NLVR2, SNLIVE

from metaformer.errors import DataError


@pytest.fixture
def coco(tmp_path):
    images = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{i:012d}.jpg",
            "imgid": i,
            "split": split,
            "sentences": [{"raw": f"caption {k}\n of {i} ", "imgid": i, "sentid": 5 * i + k} for k in range(5)],
        }
        for i, split in enumerate(["train", "restval", "val", "test", "train"])
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return tmp_path


def test_karpathys_splits_have_a_sample_per_caption(coco):
    data = Karpathy(root=coco, split="train+restval")
    assert len(data) == 15
    assert data[6] == {"image": "val2014/COCO_val2014_000000000001.jpg", "caption": "caption 1 of 1", "image_id": 1}
    assert len(Karpathy(root=coco, split="train", captions="first")) == 2
    assert data.root == coco
    assert pickle.loads(pickle.dumps(data))[3] == data[3]
    assert data.fingerprint() != Karpathy(root=coco, split="train").fingerprint()


@pytest.fixture
def vqa(tmp_path):
    for part, count in (("train", 4), ("val", 2)):
        questions = [
            {"image_id": 9, "question": f"how many? {i}", "question_id": 10 * i + len(part)} for i in range(count)
        ]
        answers = ["Two."] * 5 + ["2"] * 2 + ["a dog"] * 2 + ["one hundred"]
        annotations = [
            {"question_id": q["question_id"], "image_id": 9, "answers": [{"answer": a} for a in answers]}
            for q in questions
        ]
        (tmp_path / f"v2_OpenEnded_mscoco_{part}2014_questions.json").write_text(json.dumps({"questions": questions}))
        (tmp_path / f"v2_mscoco_{part}2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    questions = [{"image_id": 3, "question": "what?", "question_id": 1}]
    (tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json").write_text(json.dumps({"questions": questions}))
    return tmp_path


def test_vqas_answers_are_scored_by_how_many_gave_them(vqa):
    data = VQAv2(root=vqa, split="train", min_count=1)
    assert data.classes == {"answer": ["2"]}  # the most frequent answer of each question counts
    assert data[0] == {
        "image": "train2014/COCO_train2014_000000000009.jpg",
        "question": "how many? 0",
        "answer": "2",
        "answer_scores": [1.0],
    }
    test = VQAv2(root=vqa, split="test", min_count=1)
    assert test[0] == {"image": "test2015/COCO_test2015_000000000003.jpg", "question": "what?"}
    assert len(VQAv2(root=vqa, split="train+val", min_count=1)) == 6
    with pytest.raises(DataError, match="min_count 9"):
        VQAv2(root=vqa, split="train")


def test_each_answer_of_vqa_may_be_a_sample_with_the_share_of_people_who_gave_it(vqa):
    data = VQAv2(root=vqa, split="train", min_count=1, answers="each")
    assert len(data) == 4 * 3
    assert [(data[i]["answer"], data[i]["answer_weight"]) for i in range(3)] == [
        ("2", 0.7),
        ("dog", 0.2),
        ("1 hundred", 0.1),
    ]
    assert data[3] | {"answer": "", "answer_weight": 0} == {
        "image": "train2014/COCO_train2014_000000000009.jpg",
        "question": "how many? 1",
        "answer": "",
        "answer_weight": 0,
    }
    assert data.sample_id(4) == "15-dog"
    assert data.fingerprint() != VQAv2(root=vqa, split="train", min_count=1).fingerprint()
    with pytest.raises(DataError, match="the test split has no answers"):
        VQAv2(root=vqa, split="test", min_count=1, answers="each")


@pytest.mark.parametrize(
    ("given", "same"),
    [("The Dog.", "dog"), ("1,000", "1000"), ("Two", "2"), ("yes!", "yes"), ("t-shirt", "t shirt"), ("3.5", "3.5")],
)
def test_answers_are_compared_without_case_articles_and_punctuation(given, same):
    assert normalize(given) == same


@pytest.fixture
def nlvr2(tmp_path):
    lines = [
        {"identifier": f"train-1{i}-0-1", "sentence": "two dogs", "label": ["True", "False"][i], "directory": 7}
        for i in range(2)
    ]
    (tmp_path / "train.json").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "dev.json").write_text(json.dumps({**lines[0], "identifier": "dev-3-1-0"}))
    return tmp_path


def test_nlvr2_has_two_pictures(nlvr2):
    data = NLVR2(root=nlvr2, split="train")
    assert data[0] == {
        "left": "images/train/7/train-10-0-img0.png",
        "right": "images/train/7/train-10-0-img1.png",
        "sentence": "two dogs",
        "label": "True",
    }
    assert NLVR2(root=nlvr2, split="dev")[0]["right"] == "dev/dev-3-1-img1.png"


@pytest.fixture
def snli(tmp_path):
    lines = [
        {"Flickr30K_ID": "12.jpg", "sentence2": "a man", "gold_label": "entailment"},
        {"Flikr30kID": "13.jpg", "sentence2": "a cat", "gold_label": "-"},
        {"Flikr30kID": "14", "sentence2": "a dog", "gold_label": "neutral"},
    ]
    (tmp_path / "snli_ve_train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_snli_ve_leaves_out_what_nobody_agreed_on(snli):
    data = SNLIVE(root=snli, split="train")
    assert len(data) == 2
    assert data.skipped == 1
    assert data[1] == {"image": "14.jpg", "sentence": "a dog", "label": "neutral"}
    assert data.root == snli / "flickr30k_images"


CASES = {
    "coco": (lambda root: Karpathy(root=root, split="train"), "dataset_coco.json"),
    "vqa": (lambda root: VQAv2(root=root, split="train", min_count=1), "v2_mscoco_train2014_annotations.json"),
    "nlvr2": (lambda root: NLVR2(root=root, split="train"), "train.json"),
    "snli": (lambda root: SNLIVE(root=root, split="train"), "snli_ve_train.jsonl"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("damage", ["truncated", "empty", "another", "not text", "absent", "deep"])
def test_damaged_files_are_told_by_name(name, damage, request):
    root = request.getfixturevalue(name)
    make, file = CASES[name]
    path = root / file
    whole = path.read_bytes()
    contents = {
        "truncated": whole[: len(whole) * 2 // 3],
        "empty": b"",
        "another": b'{"images": 3, "annotations": [{}], "gold_label": 5}',
        "not text": b"\xff\xfe\x00" + whole,
        "deep": b"[" * 100_000,
    }
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(DataError, match="dataset_|" + file.replace(".", r"\.")):
        make(root)


def test_a_folder_that_is_not_there_says_where_data_come_from(tmp_path):
    with pytest.raises(DataError, match="not there"):
        Karpathy(root=tmp_path / "none", split="val")
