"""What py-cpuinfo says, without asking the system for it."""


def get_cpu_info() -> dict[str, str]:
    return {"brand_raw": "a processor"}
