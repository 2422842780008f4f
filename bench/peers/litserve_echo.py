"""LitServe: `python litserve_echo.py PORT`."""

import sys

import litserve


class Echo(litserve.LitAPI):  # (An annotated request would be validated.)
    def setup(self, device): ...

    async def decode_request(self, request):
        return request["input"]["value"]

    async def predict(self, value):
        return value

    async def encode_response(self, value):
        return {"output": value}


if __name__ == "__main__":
    server = litserve.LitServer(Echo(enable_async=True), accelerator="cpu", workers_per_device=1)
    options = {"num_api_servers": 1, "generate_client_file": False, "log_level": "warning"}
    server.run("127.0.0.1", int(sys.argv[1]), **options)
