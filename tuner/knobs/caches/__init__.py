"""The methods that cache between denoising steps: what each needs, and how it is enabled on a pipeline."""
