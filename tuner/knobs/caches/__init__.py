"""The ways to cache between denoising steps: what each needs, and how it is put on a pipeline."""
