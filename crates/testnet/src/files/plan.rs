//! Which trials share a process, and which process is started first.

use crate::Trial;
use crate::run::Kernel;

/// How many trials of a file share a booted kernel: with more, one processor would have the last kernel for itself; with
/// fewer, booting it, two seconds, would be much of the time.
const PER_KERNEL: usize = 8;

/// The numbers of `wanted` trials, by process, in the order of starting: those of `long` first and each alone, then what
/// needs a kernel booted, then all others, each alone.
pub(super) fn batches(trials: &[Trial], wanted: &[usize], long: &[&str]) -> Vec<Vec<usize>> {
    let is = |number: usize, name: &str| trials[number].name() == name;
    let first = long.iter().flat_map(|name| wanted.iter().copied().filter(|number| is(*number, name)));
    let mut batches: Vec<Vec<usize>> = first.map(|number| vec![number]).collect();
    let others = || wanted.iter().copied().filter(|number| !long.contains(&trials[*number].name()));
    let (vlan, machine): (Vec<usize>, Vec<usize>) =
        others().partition(|number| trials[*number].kernel() == Kernel::Vlan);
    let of_one_file = vlan.chunk_by(|a, b| file(&trials[*a]) == file(&trials[*b]));
    batches.extend(of_one_file.flat_map(|numbers| numbers.chunks(PER_KERNEL)).map(<[usize]>::to_vec));
    batches.extend(machine.into_iter().map(|number| vec![number]));
    batches
}

fn file(trial: &Trial) -> &str {
    trial.name().split("::").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{test, vlan_kernel};

    fn trials() -> Vec<Trial> {
        let file = |name: &'static str, count: u32| {
            let trials = (0..count).map(|number| test(&number.to_string(), || Ok(()))).collect::<Vec<_>>();
            move |on_vlan: bool| {
                let trials = if on_vlan { vlan_kernel::trials(trials) } else { trials };
                trials.into_iter().map(move |trial| trial.in_file(name))
            }
        };
        file("a", 3)(false).chain(file("b", 10)(true)).chain(file("c", 2)(true)).collect()
    }

    #[test]
    fn long_ones_are_first_and_a_kernel_is_booted_for_a_few() {
        let trials = trials();
        let all: Vec<usize> = (0..trials.len()).collect();
        let batches = batches(&trials, &all, &["b::4", "a::2"]);
        let kernels: [Vec<usize>; 3] = [vec![3, 4, 5, 6, 8, 9, 10, 11], vec![12], vec![13, 14]];
        assert_eq!(batches[..2], [vec![7], vec![2]]);
        assert_eq!(batches[2..5], kernels);
        assert_eq!(batches[5..], [vec![0], vec![1]]);
    }

    #[test]
    fn what_is_not_wanted_is_in_no_process() {
        assert_eq!(batches(&trials(), &[1, 7], &["a::2", "b::4"]), [[7], [1]]);
    }
}
