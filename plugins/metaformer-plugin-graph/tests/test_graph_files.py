"""Graph files: GraphML as networkx reads it, lists of edges, JSON; and none that does harm."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from metaformer_plugin_graph import files
from metaformer_plugin_graph.graph import Graph, Limits, as_graph

from metaformer.errors import DataError

LIMITS = Limits(50, 200)
GRAPHML = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
  <key id="d0" for="node" attr.name="colour" attr.type="string"><default>yellow</default></key>
  <key id="d1" for="edge" attr.name="weight" attr.type="double"/>
  <key id="d2" for="all" attr.name="rank" attr.type="int"><default>3</default></key>
  <graph id="G" edgedefault="undirected">
    <node id="n0"><data key="d0">green</data><data key="d2">7</data></node>
    <node id="n1"/>
    <node id="n2"><data key="d0">&#98;lue</data></node>
    <edge id="e0" source="n0" target="n2"><data key="d1">1.5</data></edge>
    <edge id="e1" source="n1" target="n1"/>
  </graph>
</graphml>
"""


def read(folder: Path, name: str, text: str | bytes, limits: Limits = LIMITS) -> Graph:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return as_graph(path, limits)


def test_graphml_has_defaults_types_and_loops(tmp_path: Path) -> None:
    found = read(tmp_path, "a.graphml", GRAPHML)
    assert found.num_nodes == 3
    assert found.ends.tolist() == [[0, 2], [1, 1]]
    assert found.nodes == [
        {"colour": "green", "rank": 7},
        {"colour": "yellow", "rank": 3},
        {"colour": "blue", "rank": 3},
    ]
    assert found.edges == [{"weight": 1.5, "rank": 3}, {"rank": 3}]
    assert found.undirected


@pytest.mark.parametrize("directed", [False, True])
def test_graphml_is_what_networkx_reads(tmp_path: Path, directed: bool) -> None:
    graph = nx.gnm_random_graph(20, 40, seed=1, directed=directed)
    for node in graph:
        graph.nodes[node].update(size=node / 7, name=f"<{node}> & \u00e4")
    for u, v in graph.edges:
        graph.edges[u, v]["rank"] = u * v
    nx.write_graphml(graph, tmp_path / "g.graphml")
    theirs = nx.read_graphml(tmp_path / "g.graphml")
    mine = as_graph(tmp_path / "g.graphml", LIMITS)
    index = {name: i for i, name in enumerate(theirs)}
    assert mine.num_nodes == len(theirs)
    assert mine.undirected is not directed
    assert mine.nodes == [data for _, data in theirs.nodes(data=True)]

    def listed(ends: Any, ranks: Any) -> list[Any]:
        pairs = (tuple(pair) if directed else tuple(sorted(pair)) for pair in ends)
        return sorted(zip(pairs, ranks, strict=True))

    expected = listed(
        ([index[u], index[v]] for u, v in theirs.edges), [row["rank"] for *_, row in theirs.edges(data=True)]
    )
    assert listed(mine.ends.tolist(), [row["rank"] for row in mine.edges]) == expected  # type: ignore[union-attr,call-overload]


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">' + "".join(
    f'<!ENTITY {chr(99 + i)} "{f"&{chr(98 + i)};" * 10}">' for i in range(9)
)
LAUGHS = f'<?xml version="1.0"?>\n{LAUGHS}]>\n<graphml><graph><node id="&k;"/></graph></graphml>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><graphml><graph><node id="&a;"/></graph></graphml>'
HOSTILE = {
    "laughs": LAUGHS,
    "laughs in utf-16": LAUGHS.partition("\n")[2].encode("utf-16"),
    "outside": OUTSIDE,
    "doctype": "<!DOCTYPE graphml><graphml><graph/></graphml>",
    "parameter entity": '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://localhost/x">%p;]><graphml/>',
    "unknown entity": '<graphml><graph><node id="&quark;"/></graph></graphml>',
    "deep": "<graphml>" + "<data>" * 100000,
    "not graphml": "<svg/>",
    "no graph": "<graphml/>",
    "two graphs": "<graphml><graph/><graph/></graphml>",
    "nested graph": '<graphml><graph><node id="a"><graph/></node></graph></graphml>',
    "hyperedge": "<graphml><graph><hyperedge/></graph></graphml>",
    "no id": "<graphml><graph><node/></graph></graphml>",
    "twice": '<graphml><graph><node id="a"/><node id="a"/></graph></graphml>',
    "unknown end": '<graphml><graph><node id="a"/><edge source="a" target="b"/></graph></graphml>',
    "no target": '<graphml><graph><node id="a"/><edge source="a"/></graph></graphml>',
    "mixed": '<graphml><graph><node id="a"/><edge directed="true" source="a" target="a"/></graph></graphml>',
    "no number": GRAPHML.replace(">7<", ">seven<"),
    "many digits": GRAPHML.replace(">7<", f">{'7' * 10000}<"),
    "truncated": GRAPHML[:400],
    "encoding": '<?xml version="1.0" encoding="klingon"?><graphml/>',
    "too many": "<graphml><graph>" + "".join(f'<node id="{i}"/>' for i in range(51)) + "</graph></graphml>",
    "data outside": '<data key="a">1</data>',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graphml_is_refused_before_it_grows(tmp_path: Path, name: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError) as raised:
        read(tmp_path, "a.graphml", HOSTILE[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert raised.value.found
    assert peak < 8e6


def test_damaged_graphml_never_surprises(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = GRAPHML.encode()
    for _ in range(60):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            damaged[place] ^= 1 << rng.integers(0, 8)
        try:
            read(tmp_path, "a.graphml", bytes(damaged))
        except DataError:
            continue


@pytest.mark.parametrize(
    ("name", "text", "nodes", "ends"),
    [
        ("a.edgelist", "# a comment\n0 1\n1 2 {}\n", 3, [[0, 1], [1, 2]]),
        ("a.edgelist", "10 2\n2 7\n", 3, [[2, 0], [0, 1]]),
        ("a.txt", "b a\na c # and so on\n\n", 3, [[0, 1], [1, 2]]),
        ("a.csv", "source,target\nx,y\ny,z\n", 3, [[0, 1], [1, 2]]),
        ("a.csv", '"one node",b\n', 2, [[0, 1]]),
        ("a.tsv", "to\tfrom\n1\t1\n", 1, [[0, 0]]),
        ("a.csv", "\ufeff0,1\r\n1,0\r\n", 2, [[0, 1], [1, 0]]),
    ],
)
def test_lists_of_edges(tmp_path: Path, name: str, text: str, nodes: int, ends: list[list[int]]) -> None:
    found = read(tmp_path, name, text)
    assert (found.num_nodes, found.ends.tolist()) == (nodes, ends)
    assert found.edges is None


def test_lists_of_edges_have_columns_by_place_or_by_name(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "0 1 3 x\n1 2 4 y\n").edges == [["3", "x"], ["4", "y"]]
    assert read(tmp_path, "a.csv", "u,v,w\n0,1,3\n").edges == [{"w": "3"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", ""),
        ("a.txt", "# nothing\n"),
        ("a.csv", "source,target\n"),
        ("a.txt", "1\n"),
        ("a.txt", "1 2\n3\n"),
        ("a.txt", "1 2 3\n1 2\n"),
        ("a.csv", "1,\n"),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.csv", "a" * 200_000 + ",b"),
        ("a.txt", "1 2 {'weight': 3}\n2 3 {}\n"),
        ("a.txt", "\n".join(f"{i} {i + 1}" for i in range(60))),
        ("a.txt", "1 2\n" * 201),
        ("a.json", "{"),
        ("a.json", "[]"),
        ("a.json", "[" * 100_000),
        ("a.json", '{"nodes": 5}'),
        ("a.json", '{"num_nodes": 1e400}'),
        ("a.json", '{"num_nodes": 5, "edge_index": [[0], [NaN]]}'),
        ("a.json", b"\xff"),
        ("a.gpickle", "cos\nsystem\n(S'echo'\ntR."),
        ("a.gml", "graph []"),
    ],
)
def test_unusable_files_are_data_errors(tmp_path: Path, name: str, text: str | bytes) -> None:
    with pytest.raises(DataError) as raised:
        read(tmp_path, name, text)
    assert str(tmp_path) in str(raised.value)
    assert raised.value.found


def test_json_is_node_link_or_arrays(tmp_path: Path) -> None:
    graph = nx.les_miserables_graph()
    limits = Limits(100, 300)
    found = read(tmp_path, "a.json", json.dumps(nx.node_link_data(graph)), limits)
    assert (found.num_nodes, len(found.ends)) == (77, 254)
    found = read(tmp_path, "b.json", json.dumps({"edge_index": [[0], [1]], "x": [[1, None], [2, 3]]}))
    assert found.num_nodes == 2


def test_files_have_a_largest_size_and_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 20)
    with pytest.raises(DataError, match="at most 20 bytes"):
        read(tmp_path, "a.txt", "1 2\n" * 6)
    with pytest.raises(DataError):
        as_graph(tmp_path / "absent.graphml", LIMITS)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError):
        as_graph(tmp_path / "folder.json", LIMITS)
