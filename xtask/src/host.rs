//! What the set-up needs to know of the machine it runs on: a plain value, so that tests can make one up.

use crate::process;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Directories that programs are looked for in.
    pub(crate) path: Vec<PathBuf>,
    /// The operating system.
    pub(crate) os: OsRelease,
    /// Whether packages may be installed.
    pub(crate) root: bool,
}

/// The part of `/etc/os-release` that decides where things come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OsRelease {
    /// `ID`, such as `debian`; `macos` there.
    pub(crate) id: String,
    /// `ID_LIKE`: the distributions that this one descends from.
    pub(crate) like: Vec<String>,
    /// `VERSION_CODENAME`, empty where there is none.
    pub(crate) codename: String,
}

/// One piece of software under the names that package managers know it by; several names stand with blanks between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    pub(crate) debian: &'static str,
    pub(crate) fedora: &'static str,
    pub(crate) arch: &'static str,
    pub(crate) suse: &'static str,
    pub(crate) brew: &'static str,
}

impl Package {
    /// Debian's packages, one by one.
    pub(crate) fn of_debian(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.debian.split(' ')
    }
}

impl Host {
    /// The machine that this runs on.
    pub(crate) fn detect() -> Self {
        let path = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
        let text =
            fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
        let mut os = text.map(|text| OsRelease::parse(&text)).unwrap_or_default();
        if cfg!(target_os = "macos") {
            os.id = "macos".to_owned();
        }
        let uid = process::output_of(Command::new("id").arg("-u"));
        Self { path, os, root: uid.is_ok_and(|uid| uid.trim() == "0") }
    }

    /// The full path of `program`.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        self.path.iter().map(|directory| directory.join(program)).find(|file| is_program(file))
    }

    /// Whether the machine is a Debian or descends from it.
    pub(crate) fn is_debian_like(&self) -> bool {
        self.os.id == "debian" || self.os.like.iter().any(|id| id == "debian")
    }

    /// Whether packages of the distribution can be installed without asking anyone.
    pub(crate) fn can_install(&self) -> bool {
        self.root && self.is_debian_like() && self.find("apt-get").is_some()
    }

    /// The command that would install `package` here.
    pub(crate) fn install_command(&self, package: &Package) -> String {
        let is = |ids: &[&str]| {
            ids.iter().any(|id| self.os.id == *id || self.os.like.iter().any(|like| like == id))
        };
        let sudo = if self.root { "" } else { "sudo " };
        if self.is_debian_like() {
            format!("{sudo}apt-get install {}", package.debian)
        } else if is(&["fedora", "rhel", "centos"]) {
            format!("{sudo}dnf install {}", package.fedora)
        } else if is(&["arch"]) {
            format!("{sudo}pacman -S {}", package.arch)
        } else if is(&["suse", "opensuse"]) {
            format!("{sudo}zypper install {}", package.suse)
        } else if is(&["macos"]) {
            format!("brew install {}", package.brew)
        } else {
            format!("install your system's package of it (Debian: apt-get install {})", package.debian)
        }
    }
}

impl OsRelease {
    /// Reads the text of an `os-release` file.
    pub(crate) fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let like = value("ID_LIKE").split_whitespace().map(str::to_owned).collect();
        Self { id: value("ID"), like, codename: value("VERSION_CODENAME") }
    }
}

#[cfg(unix)]
fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(file: &Path) -> bool {
    file.is_file()
}

#[cfg(test)]
mod tests;
