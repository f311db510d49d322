"""What devices can do by their vendors' word."""

import jax

# Dense bfloat16 FLOP/s by the vendors' data sheets, for devices whose kind contains the key.
_PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "TPU v6 lite": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v4": 275e12,
}


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 FLOP/s of a device, or None where no data sheet gives one."""
    for kind, flops in _PEAK_FLOPS.items():
        if kind in device.device_kind:
            return flops
    return None
