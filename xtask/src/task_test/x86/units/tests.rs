use super::{BOCHS, Cpu, Expected, On, QEMU, UNITS, intel, judge, refused, slowest};
use crate::boot::machine::bochs_model;
use crate::boot::session::Observed;
use slat_hv_protocol::UnitOutcome;

/// What is seen of a CPU that does exactly what is expected.
fn perfect(cpu: &Cpu) -> Observed {
    let Expected::Lacks(lacks) = cpu.expected else {
        return Observed { failed: Some("no EPT, no SVM".to_owned()), ..Observed::new() };
    };
    let units = UNITS.iter().filter(|unit| unit.1 == On::Both || unit.1 == cpu.vendor).map(|unit| {
        let lacking = unit.2.iter().find(|need| lacks.contains(need)).map(|need| format!("{need:?}"));
        (0.1, UnitOutcome { name: unit.0.to_owned(), failure: None, lacking, frames_lost: 0 })
    });
    Observed { units: units.collect(), units_ended: true, ..Observed::new() }
}

fn complaint(cpu: &Cpu, change: impl FnOnce(&mut Observed)) -> String {
    let mut seen = perfect(cpu);
    change(&mut seen);
    judge(cpu, &seen).unwrap_err().to_string()
}

#[test]
fn what_is_expected_passes_on_every_cpu() {
    for cpu in BOCHS.iter().chain(&QEMU) {
        judge(cpu, &perfect(cpu)).unwrap();
    }
    for cpu in &BOCHS {
        assert_eq!(bochs_model(cpu.name), Some(cpu.name), "Bochs knows it");
    }
}

#[test]
fn everything_else_is_a_complaint() {
    let cpu = &intel("tigerlake", &[]);
    let first = UNITS[0].0;
    assert!(complaint(cpu, |seen| drop(seen.units.remove(0))).contains(&format!("{first}: not run")));
    assert!(complaint(cpu, |seen| seen.units[0].1.failure = Some("why".to_owned())).contains("why"));
    assert!(complaint(cpu, |seen| seen.units[0].1.frames_lost = 3).contains("3 frames are lost"));
    let lacking = |seen: &mut Observed| seen.units[0].1.lacking = Some("PML".to_owned());
    assert!(complaint(cpu, lacking).contains("should have"));
    assert!(complaint(cpu, |seen| seen.units[0].1.name = "new".to_owned()).contains("new: nobody knows it"));
    assert!(complaint(cpu, |seen| seen.units_ended = false).contains("did not end"));
    assert!(complaint(cpu, |seen| seen.failed = Some("panic".to_owned())).contains("panic"));
}

#[test]
fn a_cpu_that_lacks_less_than_expected_is_a_complaint() {
    let cpu = &intel("lynnfield", &[super::UnrestrictedGuest]);
    let run = |seen: &mut Observed| seen.units.iter_mut().for_each(|unit| unit.1.lacking = None);
    assert!(complaint(cpu, run).contains("should lack"));
}

#[test]
fn the_slowest_guest_is_named() {
    let unit =
        |name: &str| UnitOutcome { name: name.to_owned(), failure: None, lacking: None, frames_lost: 0 };
    let units =
        vec![(3.0, unit("first")), (3.25, unit("second")), (4.25, unit("third")), (4.5, unit("last"))];
    assert_eq!(slowest(&Observed { units, ..Observed::new() }), Some((1.0, "third")));
    assert_eq!(slowest(&Observed::new()), None);
}

#[test]
fn a_refusal_has_its_reason() {
    let cpu = &refused("penryn", On::Intel, "EPT");
    assert!(complaint(cpu, |seen| seen.failed = None).contains("does not refuse"));
    assert!(
        complaint(cpu, |seen| seen.failed = Some("it fell over".to_owned())).contains("`EPT` is missing")
    );
}
