"""The engines that methods stand on: gradients along paths and noise, and games of present and absent features."""
