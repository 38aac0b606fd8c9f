//! A disk that fails or hangs when a test says so, for processes that are started with
//! [`Disk::environment`].
#![allow(dead_code, clippy::unwrap_used, reason = "each test takes its part")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Stands before the C library: nothing is mounted, and no right is needed.
pub(crate) struct Disk(TempDir);

impl Disk {
    pub(crate) fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let source = disk.0.path().join("disk.c");
        fs::write(&source, include_str!("disk.c")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).args([&disk.0.path().join("disk.so"), &source]);
        assert!(cc.status().unwrap().success(), "the tests need a C compiler");
        disk
    }

    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", self.0.path().join("disk.so")),
            ("VEILSTREAM_DISK_FAILS", self.fails()),
            ("VEILSTREAM_DISK_HANGS", self.hangs()),
        ]
    }

    /// While this file is there, nothing becomes durable, and who asks is told.
    pub(crate) fn fails(&self) -> PathBuf {
        self.0.path().join("fails")
    }

    /// While this file is there, who asks waits.
    pub(crate) fn hangs(&self) -> PathBuf {
        self.0.path().join("hangs")
    }
}
