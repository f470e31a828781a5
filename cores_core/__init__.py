"""Reasoning segmentation with CoReS. The public door is `cores_core.predict.Predictor`; importing this costs nothing."""
