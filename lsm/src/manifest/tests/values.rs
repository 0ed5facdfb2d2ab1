//! When value files go: with the last table that names them, or what is left of it.

use super::*;
use crate::mem_disk::run::poll_once;

fn values(number: u64) -> ValuesMeta {
    ValuesMeta { store: 5, number, bytes: 8192, record_bytes: 77, file_id: FileId(9) }
}

/// The value files that a damaged table points into went with the table, though its file was kept for what may be saved of it.
#[test]
fn value_files_of_a_table_that_is_gone_stay_until_its_areas_are_released() {
    let lost = TableName { store: 5, number: 3 };
    let begun = [
        Edit::Store { store: 5 },
        Edit::AddValues { values: values(7) },
        Edit::AddValues { values: values(8) },
    ];
    let known = [
        Edit::Add { level: 0, table: naming(3, 7) },
        Edit::Quarantine(area(3, 0, false)),
        Edit::Remove { table: lost },
    ];
    let after = |first: &[Edit], then: &[Edit]| {
        let mut catalog = Catalog::default();
        let edits = begun.iter().chain(first).chain(then);
        edits.map(|edit| catalog.apply(edit)).find(Result::is_err).unwrap_or(Ok(()))?;
        let dead = catalog.dead_values().into_iter();
        Ok::<Vec<bool>, Contradiction>(
            dead.map(|file| matches!(file, FileName::Values { number: 7, .. })).collect(),
        )
    };
    let (of_8, of_both, none) = (Ok(vec![false]), Ok(vec![true, false]), Ok(vec![]));
    assert_eq!(after(&[], &[]), of_both);
    assert_eq!(after(&known, &[]), of_8);
    assert_eq!(after(&known, &[Edit::Release { table: lost }]), of_both);
    let vnode = |vnode| Edit::Drop { store: 5, extent: Extent::vnode(vnode), seq: 9, tables: vec![] };
    assert_eq!(after(&known, &[vnode(1)]), of_8);
    assert_eq!(after(&known, &[vnode(2)]), of_both, "all of it was dropped");
    // It is back, and gone again with its values elsewhere.
    let back = [Edit::Add { level: 1, table: table(3) }, Edit::Remove { table: lost }];
    assert_eq!(after(&known, &back[..1]), of_both);
    assert_eq!(after(&known, &back), of_both);
    // Earlier versions said nothing of that, and took the value file.
    let unknown = [Edit::Quarantine(area(3, 0, true))];
    assert_eq!(after(&unknown, &[]), none);
    assert_eq!(after(&unknown, &[Edit::Release { table: lost }]), of_both);
    assert_eq!(after(&known, &[Edit::RemoveValues { store: 5, number: 7 }]), of_8);
    let keep = |table, file| Edit::Keep { table, values: vec![file] };
    assert_eq!(after(&unknown, &[keep(lost, 7)]), of_8);
    assert!(after(&unknown, &[keep(lost, 9)]).is_err(), "there is no such file");
    assert!(after(&unknown, &[keep(TableName { store: 5, number: 4 }, 7)]).is_err(), "nothing of it is lost");
}

/// Which value files a change took the last name of was asked before its turn had come. Of two that waited each removed the one that nothing
/// named, and the second panicked; or each took one of two names, and it stayed for ever.
#[test]
fn a_value_file_goes_with_one_of_two_changes_that_wait_for_each_other() {
    let remove = |number| vec![Edit::Remove { table: TableName { store: 5, number } }];
    let two = [remove(2), remove(3)];
    for (changes, goes) in [([vec![], vec![]], [1, 0]), (two, [0, 1])] {
        let disk = disk();
        let manifest = block_on(begin(&disk, 0)).expect("no fault");
        let added = [naming(2, 7), naming(3, 7)].map(|table| Edit::Add { level: 1, table });
        let is_named = goes[0] == 0;
        let mut first = vec![Edit::Store { store: 5 }, Edit::AddValues { values: values(7) }];
        first.extend(added.into_iter().filter(|_| is_named));
        apply_own(&mut manifest.state.borrow_mut().catalog, &first);
        disk.defer();
        let [mut one, mut other] = changes.each_ref().map(|change| Box::pin(manifest.commit(change)));
        let mut gone = [None, None];
        while gone.contains(&None) {
            for (commit, gone) in [&mut one, &mut other].into_iter().zip(&mut gone) {
                if gone.is_none() {
                    *gone = poll_once(commit.as_mut()).map(|made| made.expect("no fault").dead.len());
                }
            }
            disk.complete_all();
        }
        assert_eq!(gone, goes.map(Some));
        let found = block_on(load(&disk.image(CrashMode::None, &mut || 0), CORE)).expect("loads").catalog;
        assert_eq!(found.expect("it is whole").stores[&5].values.len(), 0);
    }
}
