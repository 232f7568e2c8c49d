"""The bundled demo: a small trained FLUX pipeline, its CLIP scorer, and the programs that made them."""

from pathlib import Path

PIPELINE_DIR = Path(__file__).parent / "pipeline"
SCORER_DIR = Path(__file__).parent / "scorer"
PROMPTS_FILE = Path(__file__).parent / "prompts.json"
