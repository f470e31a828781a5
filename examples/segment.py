"""Ask one image several questions in Python; run with: python examples/segment.py"""

from pathlib import Path

from cores_core.images import load_image
from cores_core.predict import Predictor, save_prediction

image = Path(__file__).parent / "images" / "bird_and_car.jpg"
questions = [
    "Which part of the bird beats the air to keep it up?",
    "Which parts of the car roll on the road?",
]
predictor = Predictor.from_checkpoint("tiny")
for number, prediction in enumerate(predictor.predict_many(image, questions), start=1):
    print(f"{prediction.question}\n  {prediction.answer} {prediction.mask.sum()} pixels, score {prediction.score:.2f}")
    files = save_prediction(prediction, load_image(image), Path("demo") / f"bird_and_car.{number}")
    print(f"  {files.overlay}")
