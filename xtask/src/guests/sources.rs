//! Which of the machine's configured package sources the guest's files are taken from.
//!
//! Invariant: only sources that the machine's owner configured are used, each with the options (keys above all)
//! that it was configured with; what changes is the architecture, and the release where the machine's own may not have that.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The format for `apt-get indextargets` that [`parse`] reads.
pub(crate) const FORMAT: &str =
    "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(CODENAME)|$(SUITE)|$(SOURCESENTRY)";

/// One suite of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    uri: String,
    release: String,
    origin: String,
    names: Vec<String>,
    /// Where it is configured: a file, a colon and the number of the line or stanza.
    entry: String,
}

/// Reads the lines of `apt-get indextargets --format` [`FORMAT`]; only component `main` counts.
pub(crate) fn parse(output: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in output.lines() {
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let [uri, release, "main", origin, codename, suite, entry] = fields[..] else { continue };
        let source = Source {
            uri: uri.to_owned(),
            release: release.to_owned(),
            origin: origin.to_owned(),
            names: [release, codename, suite].map(str::to_owned).to_vec(),
            entry: entry.to_owned(),
        };
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    sources
}

/// Names of suites that stand for another release from time to time.
const ROLLING: [&str; 5] = ["stable", "oldstable", "testing", "unstable", "sid"];

/// Keeps the distribution's own suites among `sources`: those of this release, and none of third parties.
pub(crate) fn own_suites(sources: Vec<Source>, codename: &str) -> Vec<Source> {
    let mut own: Vec<_> = sources
        .into_iter()
        .filter(|source| {
            let is_own = |name: &str| !codename.is_empty() && name.starts_with(codename);
            source.names.iter().any(|name| is_own(name) || ROLLING.contains(&name.as_str()))
        })
        .collect();
    // A third party may name its suites after the distribution's; only the distribution has this origin.
    if own.iter().any(|source| source.origin == "Debian") {
        own.retain(|source| source.origin == "Debian");
    }
    own
}

/// The main suite of another `release` on the mirrors of `own`, suites of the machine's distribution and its release `codename`.
///
/// The keys stay those of the machine, so that apt refuses a release which they do not know.
pub(crate) fn of_release(own: Vec<Source>, codename: &str, release: &str) -> Vec<Source> {
    let mut main: Vec<Source> = Vec::new();
    for source in own {
        // Updates and security fixes have suites, and the latter a mirror, of their own.
        let is_main = source.release == codename || ROLLING.contains(&source.release.as_str());
        if is_main && main.iter().all(|known| known.uri != source.uri) {
            main.push(Source { release: release.to_owned(), ..source });
        }
    }
    main
}

/// The text of a deb822 sources file with `sources` for `architecture`.
pub(crate) fn sources_file(sources: &[Source], architecture: &str) -> String {
    let mut text = String::new();
    for source in sources {
        let Source { uri, release, .. } = source;
        let _ = write!(text, "Types: deb\nURIs: {uri}\nSuites: {release}\nComponents: main\n");
        let _ = writeln!(text, "Architectures: {architecture}");
        text.push_str(&options_of(&source.entry));
        text.push('\n');
    }
    text
}

/// The options of a configured entry that decide whether it is trusted, as deb822 fields.
fn options_of(entry: &str) -> String {
    let Some((file, number)) = entry.rsplit_once(':') else { return String::new() };
    let (Ok(text), Ok(number)) = (fs::read_to_string(file), number.parse::<usize>()) else {
        return String::new();
    };
    let index = number.saturating_sub(1);
    if Path::new(file).extension().is_some_and(|extension| extension == "sources") {
        stanza_options(&text, index)
    } else {
        line_options(text.lines().nth(index).unwrap_or_default())
    }
}

/// `Signed-By` (with its continuation lines: it may be a whole key) and `Trusted` of one deb822 stanza.
fn stanza_options(text: &str, index: usize) -> String {
    let text = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let mut stanzas = text.split("\n\n").filter(|stanza| !stanza.trim().is_empty());
    let mut options = String::new();
    let mut keep = false;
    for line in stanzas.nth(index).unwrap_or_default().lines() {
        if !line.starts_with([' ', '\t']) {
            let key = line.split(':').next().unwrap_or_default();
            keep = key.eq_ignore_ascii_case("Signed-By") || key.eq_ignore_ascii_case("Trusted");
        }
        if keep && !line.trim().is_empty() {
            options.push_str(line);
            options.push('\n');
        }
    }
    options
}

/// The same of a one-line entry: `deb [signed-by=… trusted=yes] URI …`.
fn line_options(line: &str) -> String {
    let bracketed = line.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let mut options = String::new();
    for option in bracketed.map_or("", |(inside, _)| inside).split_whitespace() {
        match option.split_once('=') {
            Some(("signed-by", value)) => {
                let _ = writeln!(options, "Signed-By: {}", value.replace(',', " "));
            }
            Some(("trusted", value)) => {
                let _ = writeln!(options, "Trusted: {value}");
            }
            _ => {}
        }
    }
    options
}

#[cfg(test)]
mod tests;
