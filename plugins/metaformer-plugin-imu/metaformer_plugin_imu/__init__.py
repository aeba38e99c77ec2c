"""Inertial measurement units as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "imu",
            "metaformer_plugin_imu.tokenizer:ImuTokenizer",
            "Accelerometers and gyroscopes at any rate, as patches, steps or ImageBind's windows.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    return [
        Component(
            "basic_motions",
            "metaformer_plugin_imu.archive:BasicMotions",
            "Four activities by a smart watch; ships inside the aeon package.",
        ),
        Component(
            "pickup_gesture",
            "metaformer_plugin_imu.archive:PickupGesture",
            "Ten gestures by one axis of a game controller; ships inside the aeon package.",
        ),
        Component(
            "uci_har",
            "metaformer_plugin_imu.har:UciHar",
            "Six activities of 30 people by smartphone, in the official layout.",
        ),
        Component(
            "imu_clips", "metaformer_plugin_imu.clips:ImuClips", "Clips out of long recordings, by a list of clips."
        ),
        Component("ego4d_imu", "metaformer_plugin_imu.clips:Ego4dImu", "Clips out of the IMU files of Ego4D."),
    ]
