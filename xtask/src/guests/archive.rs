//! Packages of another architecture from the machine's own package sources, without changing the machine.
//!
//! Protocol: an apt with a private state, cache and sources file in a temporary directory. It knows the guest's
//! architecture only, runs none of the machine's hooks and needs no root; the directory goes when the value goes.

use super::sources;
use crate::host::Host;
use crate::process;
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The programs that this needs.
pub(crate) const PROGRAMS: [&str; 3] = ["apt-get", "apt-cache", "dpkg-deb"];

/// A private package index.
pub(crate) struct Archive {
    directory: TempDir,
    architecture: &'static str,
    /// The release, where that is not the machine's own.
    release: Option<&'static str>,
}

impl Archive {
    /// Fetches the index of `architecture` into a temporary directory below `parent`: that of the machine's own release, or of
    /// `release` from the same mirror.
    pub(crate) fn open(
        host: &Host,
        parent: &Path,
        architecture: &'static str,
        release: Option<&'static str>,
    ) -> Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let directory = tempfile::Builder::new().prefix(".fetch-").tempdir_in(parent);
        let directory = directory.with_context(|| format!("cannot write to {}", parent.display()))?;
        let archive = Self { directory, architecture, release };
        let step = Step::new(format!("Guest files: package index of {architecture}"));
        archive.prepare(host)?;
        archive.apt_must("apt-get", &["update"])?;
        step.done("fetched");
        Ok(archive)
    }

    /// Fetches `package` and unpacks it into a directory below the temporary one.
    pub(crate) fn unpack(&self, package: &str) -> Result<PathBuf> {
        let uris = self.apt_must("apt-get", &["download", "--print-uris", package])?;
        let (name, size) =
            parse_uri_line(&uris).with_context(|| format!("no package {package} was found"))?;
        let file = self.path("download").join(name);
        let step = Step::download(format!("Guest files: {package} ({} MiB)", size.div_ceil(1 << 20)), size);
        let mut command = self.command("apt-get", &["download", package]);
        command.current_dir(self.path("download"));
        let tick = || step.position(fs::metadata(&file).map_or(0, |metadata| metadata.len()));
        let captured = process::capture_with(&mut command, tick)?;
        if !captured.success {
            bail!("cannot fetch {package}: {}", captured.complaint());
        }
        let tree = self.path("trees").join(package);
        process::output_of(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&tree))?;
        step.done("fetched");
        Ok(tree)
    }

    /// The first dependency of the meta package `package`.
    ///
    /// Kernel packages carry their version in the name and leave the archive when the next one comes; the meta
    /// package stays.
    pub(crate) fn dependency(&self, package: &str) -> Result<String> {
        let text = self.apt_must("apt-cache", &["show", "--no-all-versions", package])?;
        let depends = text.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
        let first = depends.split(',').next().unwrap_or_default().split_whitespace().next();
        Ok(first.with_context(|| format!("package {package} names no kernel"))?.to_owned())
    }

    /// Writes the private configuration and the sources file.
    fn prepare(&self, host: &Host) -> Result<()> {
        for name in ["lists/partial", "cache/archives/partial", "download", "trees"] {
            fs::create_dir_all(self.path(name)).context("cannot create a temporary directory")?;
        }
        self.write("status", "")?;
        self.write("native.conf", &self.configuration(None))?;
        self.write("guest.conf", &self.configuration(Some(self.architecture)))?;

        let targets = ["indextargets", "--format", sources::FORMAT, "Created-By: Packages"];
        let mut listed = process::output_of(Command::new("apt-get").args(targets))?;
        if listed.trim().is_empty() {
            // A machine that has never fetched an index does not say what its sources are. A third party's
            // source may fail here without harm, so the outcome is judged by what is listed afterwards.
            let native = self.path("native.conf");
            process::capture(Command::new("apt-get").arg("-c").arg(&native).arg("update"))?;
            listed = process::output_of(Command::new("apt-get").arg("-c").arg(&native).args(targets))?;
        }
        let codename = &host.os.codename;
        let mut own = sources::own_suites(sources::parse(&listed), codename);
        if let Some(release) = self.release {
            own = sources::of_release(own, codename, release);
        }
        if own.is_empty() {
            bail!("no package source of the distribution answers (is there a network?)");
        }
        self.write("guest.sources", &sources::sources_file(&own, self.architecture))
    }

    /// The text of a private `apt.conf`; for the machine's own sources unless an architecture is given.
    fn configuration(&self, architecture: Option<&str>) -> String {
        let directory = self.directory.path().display();
        let mut text = format!(
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             Dir::State \"{directory}\";\nDir::State::lists \"{directory}/lists\";\n\
             Dir::State::status \"{directory}/status\";\nDir::Cache \"{directory}/cache\";\n\
             APT::Sandbox::User \"\";\nAcquire::Languages {{ \"none\"; }};\nAcquire::Retries \"2\";\n\
             Acquire::http::Timeout \"20\";\nAcquire::https::Timeout \"20\";\n"
        );
        if let Some(architecture) = architecture {
            text.push_str(&format!(
                "#clear APT::Architectures;\nAPT::Architecture \"{architecture}\";\n\
                 APT::Architectures {{ \"{architecture}\"; }};\n\
                 #clear Acquire::IndexTargets::deb::DEP-11;\nAPT::Update::Error-Mode \"any\";\n\
                 Dir::Etc::sourcelist \"{directory}/guest.sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n"
            ));
        }
        text
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.path("guest.conf")).args(arguments).env("LC_ALL", "C");
        command
    }

    fn apt_must(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let captured = process::capture(&mut self.command(program, arguments))?;
        if !captured.success {
            bail!("{program} {}: {}", arguments.join(" "), captured.complaint());
        }
        Ok(captured.stdout)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path(name), text).context("cannot write a temporary file")
    }
}

/// File name and size from a line of `apt-get download --print-uris`: `'URI' NAME SIZE HASH`.
fn parse_uri_line(output: &str) -> Option<(&str, u64)> {
    let line = output.lines().find(|line| line.starts_with('\''))?;
    let mut words = line.split_whitespace().skip(1);
    Some((words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;
