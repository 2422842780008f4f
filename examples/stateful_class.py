"""A class with state: its constructor runs once in a worker, its methods many times."""

import asyncio

from runpod_flash import Endpoint, GpuGroup


@Endpoint(name="classifier", gpu=GpuGroup.ANY, dependencies=["numpy"])
class Classifier:
    def __init__(self, labels: list[str], seed: int = 0) -> None:
        import numpy as np

        print(f"loading weights for {len(labels)} labels")
        self.labels = labels
        self.weights = np.random.default_rng(seed).random((len(labels), 3))
        self.calls = 0

    async def classify(self, features: list[float]) -> str:
        self.calls += 1
        scores = self.weights @ features
        return self.labels[int(scores.argmax())]

    async def stats(self) -> dict[str, int]:
        return {"calls": self.calls, "labels": len(self.labels)}


async def main() -> None:
    # This is cheap: the object is made on a worker, at its first call.
    classifier = Classifier(["cat", "dog"], seed=7)
    for features in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]):
        print(features, await classifier.classify(features))
    print(await classifier.stats())


if __name__ == "__main__":
    asyncio.run(main())
