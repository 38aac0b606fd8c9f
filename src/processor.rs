//! The processor that a build is for, and whether the machine has it.

/// Names the build in `--version`: the instruction set that it may use throughout. What the ciphers
/// use is found at run time, in every build.
#[cfg(target_arch = "x86_64")]
pub const BUILD: &str = if cfg!(all(
    target_feature = "avx2",
    target_feature = "bmi2",
    target_feature = "aes",
    target_feature = "pclmulqdq"
)) {
    "x86-64-v3 with AES"
} else {
    "x86-64"
};
/// Names the build in `--version`: the instruction set that it may use throughout. What the ciphers
/// use is found at run time, in every build.
#[cfg(target_arch = "aarch64")]
pub const BUILD: &str = if cfg!(all(target_feature = "aes", target_feature = "sha2")) {
    "ARMv8 with AES and SHA-2"
} else {
    "ARMv8"
};
/// Names the build in `--version`.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const BUILD: &str = std::env::consts::ARCH;

/// Whether the build uses a feature beyond what every processor of its kind has, and the feature's
/// name in `/proc/cpuinfo`. The standard library's own look-up is of no use: it takes for granted
/// what the build takes for granted.
const FEATURES: [(bool, &str); 16] = [
    (cfg!(all(target_arch = "x86_64", target_feature = "aes")), "aes"),
    (cfg!(target_feature = "avx"), "avx"),
    (cfg!(target_feature = "avx2"), "avx2"),
    (cfg!(target_feature = "avx512f"), "avx512f"),
    (cfg!(target_feature = "bmi1"), "bmi1"),
    (cfg!(target_feature = "bmi2"), "bmi2"),
    (cfg!(target_feature = "f16c"), "f16c"),
    (cfg!(target_feature = "fma"), "fma"),
    (cfg!(target_feature = "lzcnt"), "abm"),
    (cfg!(target_feature = "movbe"), "movbe"),
    (cfg!(target_feature = "pclmulqdq"), "pclmulqdq"),
    (cfg!(target_feature = "popcnt"), "popcnt"),
    (cfg!(target_feature = "sse4.2"), "sse4_2"),
    (cfg!(all(target_arch = "aarch64", target_feature = "aes")), "aes"),
    (cfg!(all(target_arch = "aarch64", target_feature = "aes")), "pmull"),
    (cfg!(all(target_arch = "aarch64", target_feature = "sha2")), "sha2"),
];

/// What this build needs and the machine lacks, by names of `/proc/cpuinfo`. Nothing where the
/// system does not tell.
#[must_use]
pub fn missing_features() -> Vec<&'static str> {
    if FEATURES.iter().all(|(is_needed, _)| !is_needed) {
        return Vec::new();
    }
    std::fs::read_to_string("/proc/cpuinfo").map_or_else(|_| Vec::new(), |text| missing(&text))
}

fn missing(cpuinfo: &str) -> Vec<&'static str> {
    let found = cpuinfo.lines().find_map(|line| {
        let (name, features) = line.split_once(':')?;
        matches!(name.trim(), "flags" | "Features").then_some(features)
    });
    let Some(found) = found else { return Vec::new() };
    let has = |name: &str| found.split_ascii_whitespace().any(|feature| feature == name);
    let needed = FEATURES.iter().filter(|(is_needed, _)| *is_needed);
    needed.map(|(_, name)| *name).filter(|name| !has(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_this_build_needs() {
        assert_eq!(missing_features(), [""; 0]);
    }

    #[test]
    fn a_processor_without_anything_lacks_all_that_is_needed() {
        let needed: Vec<&str> =
            FEATURES.iter().filter(|(n, _)| *n).map(|(_, name)| *name).collect();
        assert_eq!(missing("model name\t: old\nflags\t\t: fpu\n"), needed);
        assert_eq!(missing("model name\t: nobody knows\n"), [""; 0]);
    }
}
