use super::Platform;
use crate::boot::machine::bochs_model;

const ALL: [Platform; 3] = [Platform::Arm, Platform::Intel, Platform::Amd];

#[test]
fn platforms_of_one_isa_share_what_the_isa_decides() {
    for platform in ALL {
        assert_eq!(platform.vendor().is_some(), platform.arch() == "x86_64");
        let same = ALL.into_iter().filter(|other| other.arch() == platform.arch());
        for other in same {
            assert_eq!(other.target(), platform.target());
            assert_eq!(other.map(), platform.map());
            for cpus in [1, 2] {
                assert_eq!(other.bootargs(cpus), platform.bootargs(cpus));
            }
        }
        assert!(platform.target().starts_with(platform.arch()));
        assert!(platform.bootargs(1).contains("panic=-1") && platform.bootargs(2).contains("panic=-1"));
    }
}

#[test]
fn what_bochs_emulates_by_default_is_a_model_of_it() {
    assert_eq!(bochs_model(Platform::Intel.default_cpu()), Some(Platform::Intel.default_cpu()));
}
