//! What is found out while the guest runs.

/// What was seen that must not be. All is well while every count is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Accesses of the guest that did not find what it wrote, or what was loaded for it.
    pub stale_reads: u64,
    /// Accesses by a translation that the tables had no longer, although no change was going on.
    pub stale_translations: u64,
    /// Frames that went back while a CPU could still reach them.
    pub reachable_frames: u64,
    /// Rules of the architecture that were broken: an entry replaced without a break, memory not cleaned, a reserved bit.
    pub rules_broken: u64,
    /// The first of all these, in one line.
    pub first: Option<String>,
}

impl Checks {
    /// Notes something by its count; the first one also by its words.
    pub(crate) fn note(&mut self, count: fn(&mut Self) -> &mut u64, what: impl FnOnce() -> String) {
        *count(self) += 1;
        self.first.get_or_insert_with(what);
    }

    /// What was wrong, in one line.
    ///
    /// # Errors
    /// That line, unless every count is zero.
    pub fn verdict(&self) -> Result<(), String> {
        self.first.as_ref().map_or(Ok(()), |first| {
            let Self { stale_reads, stale_translations, reachable_frames, rules_broken, .. } = self;
            Err(format!(
                "{stale_reads} stale reads, {stale_translations} stale translations, {reachable_frames} frames reachable \
                 after their return, {rules_broken} rules broken; first: {first}"
            ))
        })
    }
}
