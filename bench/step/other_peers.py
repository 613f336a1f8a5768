"""D5 outside of torch: a program that measures ONNX Runtime and OpenVINO in an interpreter that has them.

Reads a JSON object a line: a case, or how long to measure which library; answers with one. Needs nothing of
ours, so that it runs in an environment of its own.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import median_us  # type: ignore[import-not-found,unused-ignore] # beside this file

Run = Callable[[], object]


def main() -> None:
    """Answers until its input ends."""
    libraries = {name: make for name, make in _MAKERS.items() if _there(name)}
    print(
        json.dumps({name: importlib.import_module(name).__version__ for name in libraries}),
        flush=True,
    )
    runs: dict[str, Run] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer: Any
        if "case" in asked:
            runs.clear()
            runs |= _runs(asked["case"], libraries)
            answer = list(runs)
        else:
            answer = median_us(runs[asked["library"]], asked["seconds"])
        print(json.dumps(answer), flush=True)


def _there(name: str) -> bool:
    try:
        importlib.import_module("onnx")
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _runs(case: dict[str, Any], libraries: dict[str, Any]) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    if not libraries:
        return runs
    model = _model(case)
    for name, make in libraries.items():
        try:
            run = make(model, case)
        except Exception as error:  # noqa: BLE001 - whatever it cannot do
            print(f"{name}: {error}"[:200], file=sys.stderr)
            continue
        if run is not None:
            runs[name] = run
    return runs


def _model(case: dict[str, Any]) -> bytes:
    """The stack as ONNX nodes of one step, its states as inputs and outputs."""
    onnx = importlib.import_module("onnx")
    make, numbers = onnx.helper, onnx.TensorProto.FLOAT
    hidden, batch, lstm = case["hidden"], case["batch"], case["cell"] == "lstm"
    gates, random = 4 if lstm else 3, np.random.default_rng(0)
    shape = [1, batch, hidden]
    inputs, outputs, nodes, weights = [make.make_tensor_value_info("x", numbers, shape)], [], [], []
    last = "x"
    for n in range(case["layers"]):
        for name, size in (
            (f"W{n}", (1, gates * hidden, hidden)),
            (f"R{n}", (1, gates * hidden, hidden)),
            (f"B{n}", (1, 2 * gates * hidden)),
        ):
            values = (random.uniform(-1, 1, size) / hidden**0.5).astype(np.float32)
            weights.append(onnx.numpy_helper.from_array(values, name))
        states = [f"h{n}", f"c{n}"] if lstm else [f"h{n}"]
        after = [f"{state}_after" for state in states]
        inputs += [make.make_tensor_value_info(state, numbers, shape) for state in states]
        outputs += [make.make_tensor_value_info(state, numbers, shape) for state in after]
        options = {} if lstm else {"linear_before_reset": 1}
        nodes.append(
            make.make_node(
                "LSTM" if lstm else "GRU",
                [last, f"W{n}", f"R{n}", f"B{n}", "", *states],
                ["", *after],
                hidden_size=hidden,
                **options,
            )
        )
        last = after[0]
    graph = make.make_graph(nodes, "step", inputs, outputs, weights)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


def _onnxruntime(model: bytes, case: dict[str, Any]) -> Run | None:
    if case["dtype"] != "float32":
        return None  # its recurrent kernels know float32 only
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = case["threads"]
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for tensor in session.get_inputs():
        binding.bind_cpu_input(tensor.name, np.zeros(tensor.shape, np.float32))
    for tensor in session.get_outputs():
        binding.bind_output(tensor.name)
    return lambda: session.run_with_iobinding(binding)


def _openvino(model: bytes, case: dict[str, Any]) -> Run:
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": case["threads"],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if case["dtype"] == "float32" else "bf16",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", options)
    request = compiled.create_infer_request()
    for port in compiled.inputs:
        zeros = np.zeros(list(port.shape), np.float32)
        request.set_tensor(port, openvino.Tensor(zeros, shared_memory=True))
    return request.infer  # type: ignore[no-any-return]


_MAKERS = {"onnxruntime": _onnxruntime, "openvino": _openvino}


if __name__ == "__main__":
    main()
