"""Reasoning segmentation with CoReS. The public door is `cores_core.predict.Predictor`."""
