#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| onnx_unlearn::fuzz::read_record(bytes));
