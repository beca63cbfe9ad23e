use proptest::prelude::*;

use super::*;

fn address(last: u8) -> Addr {
    IpAddr::from([10, 0, 0, last]).into()
}

/// A journal of a few changes: its path, and what was in it after each of them.
fn journal(folder: &Path) -> (PathBuf, Vec<BTreeMap<Addr, u32>>) {
    let path = folder.join("p.journal");
    let entries = [(address(1), b"1".as_slice()), (address(2), b"2")];
    let (mut journal, mut journal_end) =
        Journal::write(&path, SyncPolicy::Never, None, entries.into_iter()).unwrap();
    let mut states = vec![BTreeMap::from([(address(1), 1), (address(2), 2)])];
    for i in 3..9u8 {
        let text = i.to_string();
        let changes = [(address(i), Some(text.as_bytes())), (address(i - 2), None)];
        journal_end = journal_end.append_line(changes.into_iter());
        journal.append_missing(&journal_end).unwrap();
        let mut state = states.last().unwrap().clone();
        state.insert(address(i), i.into());
        state.remove(&address(i - 2));
        states.push(state);
    }
    (path, states)
}

fn read(path: &Path) -> Result<JournalContents<u32>, StoreError> {
    Journal::find(path, SyncPolicy::Never).unwrap().unwrap().read()
}

#[test]
fn every_beginning_is_the_state_after_a_change() {
    let temp = tempfile::tempdir().unwrap();
    let (path, states) = journal(temp.path());
    let bytes = std::fs::read(&path).unwrap();
    let copy = temp.path().join("copy");
    // The lines that were written as a whole are required: a shorter beginning is damaged.
    let whole = bytes.split_inclusive(|byte| *byte == b'\n').take(3).map(<[u8]>::len).sum();
    let mut seen = 0;
    for len in 0..=bytes.len() {
        std::fs::write(&copy, &bytes[..len]).unwrap();
        match read(&copy) {
            Ok(contents) => {
                assert!(len >= whole);
                seen += usize::from(contents.entries != states[seen]);
                assert_eq!(contents.entries, states[seen]);
                assert_eq!(contents.journal_end.is_some(), bytes[..len].ends_with(b"\n"));
            }
            Err(error) => {
                assert!(len < whole && matches!(error, StoreError::Damaged { .. }), "{len}: {error}");
            }
        }
    }
    assert_eq!(seen + 1, states.len());
}

#[test]
fn an_unfinished_line_is_finished() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("p.journal");
    for cut in 0..40 {
        let (journal, journal_end) =
            Journal::write(&path, SyncPolicy::Never, None, std::iter::empty()).unwrap();
        drop(journal);
        let journal_end = journal_end.append_line([(address(1), Some(b"1".as_slice()))].into_iter());
        let cut = cut.min(journal_end.line.len());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&journal_end.line.as_bytes()[..cut]).unwrap();
        let mut journal = Journal::find(&path, SyncPolicy::Never).unwrap().unwrap();
        assert!(journal.is_of(&journal_end));
        journal.append_missing(&journal_end).unwrap();
        journal.append_missing(&journal_end).unwrap();
        assert_eq!(read(&path).unwrap().entries, BTreeMap::from([(address(1), 1)]));
    }
}

#[test]
fn what_its_index_does_not_know_is_damage() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("p.journal");
    let (mut journal, first) = Journal::write(&path, SyncPolicy::Never, None, std::iter::empty()).unwrap();
    let second = first.append_line([(address(1), Some(b"1".as_slice()))].into_iter());
    journal.append_missing(&second).unwrap();
    assert!(matches!(journal.append_missing(&first), Err(StoreError::Damaged { .. })));
    let third = second.append_line(std::iter::empty()).append_line(std::iter::empty());
    assert!(matches!(journal.append_missing(&third), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_newer_journal_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("p.journal");
    for header in [r#"{"version":9,"lines":0,"more":true}"#, r#"{"version":9,"of":"nothing known"}"#] {
        std::fs::write(&path, line(0, header)).unwrap();
        assert!(matches!(read(&path), Err(StoreError::Newer { found: 9, .. })));
    }
}

proptest! {
    #[test]
    fn every_address_comes_back(addresses: Vec<IpAddr>, mapped: [u8; 4]) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("p.journal");
        let mapped = IpAddr::from(std::net::Ipv4Addr::from(mapped).to_ipv6_mapped());
        let all: BTreeMap<Addr, u32> = addresses.into_iter().chain([mapped]).map(Addr::from).zip(0..).collect();
        let texts: Vec<_> = all.iter().map(|(address, i)| (*address, i.to_string().into_bytes())).collect();
        let (mut journal, journal_end) = Journal::write(&path, SyncPolicy::Never, None, std::iter::empty()).unwrap();
        let journal_end = journal_end.append_line(texts.iter().map(|(address, text)| (*address, Some(text.as_slice()))));
        journal.append_missing(&journal_end).unwrap();
        prop_assert_eq!(read(&path).unwrap().entries, all);
    }

    #[test]
    fn a_changed_byte_is_seen(at in 0usize..4096, bit in 0u8..8) {
        let temp = tempfile::tempdir().unwrap();
        let (path, states) = journal(temp.path());
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        match read(&path) {
            Err(StoreError::Damaged { .. }) => {}
            Ok(contents) => {
                prop_assert_eq!(at, bytes.len() - 1);
                prop_assert!(contents.journal_end.is_none());
                prop_assert_eq!(&contents.entries, &states[states.len() - 2]);
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}
