"""Merge rules that several methods share: functions of tensors, without a model or data."""
