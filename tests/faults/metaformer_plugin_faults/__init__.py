"""A plugin for tests only: vectors of numbers whose data set is bad, slow or deadly where it is told to be."""

import os

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def step_finished(run, record):
    if os.environ.get("FAULTS_FAIL_AT") == str(record["step"]):
        raise ValueError("the plugin's own fault")


@hookimpl
def save_state(run):
    return {"seen": os.environ.get("FAULTS_STATE", "")}


@hookimpl
def load_state(run, state):
    (run.path / "faults_state").write_text(state["seen"])


@hookimpl
def register_tokenizers():
    return [Component("vector", "metaformer_plugin_faults.vector:VectorTokenizer", "A token per number.")]


@hookimpl
def register_datasets():
    return [
        Component("vectors", "metaformer_plugin_faults.vector:Vectors", "Numbers and the sign of their sum."),
        Component("few", "metaformer_plugin_faults.few:Few", "Some samples of another data set."),
    ]


@hookimpl
def register_objectives():
    return [
        Component("witness", "metaformer_plugin_faults.witness:Witness", "Writes down what teachers are made of."),
        Component("cliff", "metaformer_plugin_faults.cliff:Cliff", "A finite loss with a gradient that is not."),
    ]
