#![no_main]

libfuzzer_sys::fuzz_target!(init: checks::quiet_guarded_panics(), |data: &[u8]| {
    checks::scanner_reference(data);
});
