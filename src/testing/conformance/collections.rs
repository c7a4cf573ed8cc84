//! Cases for hashes and lists.

use super::*;
use crate::op::Direction;

/// Writing a field says whether it is new.
pub async fn hash_set(subject: &Subject) -> Checked {
    let key = subject.key("h");
    subject.expect(hash_op(&key, "f", "1"), Reply::Bool(true)).await?;
    subject.expect(hash_op(&key, "f", "2"), Reply::Bool(false)).await?;
    subject.expect(hash_op(&key, "", ""), Reply::Bool(true)).await?;
    subject.expect(Op::HashGet { key: key.clone(), field: bytes("f") }, value("2")).await?;
    subject.expect(Op::HashGet { key, field: bytes("") }, value("")).await
}

/// A missing field and a missing hash read as nothing.
pub async fn hash_get(subject: &Subject) -> Checked {
    let key = subject.key("h");
    let get = |field| Op::HashGet { key: key.clone(), field: bytes(field) };
    subject.expect(get("f"), Reply::Value(None)).await?;
    subject.expect(hash_op(&key, "f", "1"), Reply::Bool(true)).await?;
    subject.expect(get("f"), value("1")).await?;
    subject.expect(get("g"), Reply::Value(None)).await
}

/// A whole hash, also a large one, in any order; a missing one has no fields.
pub async fn hash_get_all(subject: &Subject) -> Checked {
    let key = subject.key("h");
    let all = || Op::HashGetAll { key: key.clone() };
    subject.expect(all(), Reply::Pairs(Vec::new())).await?;
    // Redis changes its representation at 128 fields.
    let pairs: Vec<_> = (100..400).map(|n| (bytes(n.to_string()), bytes("v"))).collect();
    for (field, value) in &pairs {
        subject.expect(hash_op(&key, field, value), Reply::Bool(true)).await?;
    }
    let came = subject.run(all()).await.map(|reply| match reply {
        Reply::Pairs(mut pairs) => {
            pairs.sort();
            Reply::Pairs(pairs)
        }
        other => other,
    });
    same("hash_get_all", &came, &Reply::Pairs(pairs))
}

/// Deleting a field says whether it was there.
pub async fn hash_delete(subject: &Subject) -> Checked {
    let key = subject.key("h");
    let delete = |field| Op::HashDelete { key: key.clone(), field: bytes(field) };
    subject.expect(delete("f"), Reply::Bool(false)).await?;
    subject.expect(hash_op(&key, "f", "1"), Reply::Bool(true)).await?;
    subject.expect(hash_op(&key, "g", "2"), Reply::Bool(true)).await?;
    subject.expect(delete("f"), Reply::Bool(true)).await?;
    subject.expect(delete("f"), Reply::Bool(false)).await?;
    let left = Reply::Pairs(vec![(bytes("g"), bytes("2"))]);
    subject.expect(Op::HashGetAll { key: key.clone() }, left).await
}

/// Elements are added at either end; the answer is the length.
pub async fn list_push(subject: &Subject) -> Checked {
    let key = subject.key("l");
    let left = |text| Op::ListPush { key: key.clone(), value: bytes(text), side: Direction::Left };
    subject.expect(push_op(&key, "b"), Reply::Int(1)).await?;
    subject.expect(left("a"), Reply::Int(2)).await?;
    subject.expect(push_op(&key, "c"), Reply::Int(3)).await?;
    subject.expect(left(""), Reply::Int(4)).await?;
    subject.expect(range_op(&key, 0, -1), list(&["", "a", "b", "c"])).await
}

/// A range counts from either end and includes both of its ends.
pub async fn list_range(subject: &Subject) -> Checked {
    let key = subject.key("l");
    subject.expect(range_op(&key, 0, -1), list(&[])).await?;
    for element in ["a", "b", "c"] {
        subject.run(push_op(&key, element)).await.map_err(|error| error.to_string())?;
    }
    let ranges: [(i64, i64, &[&str]); 9] = [
        (0, -1, &["a", "b", "c"]),
        (0, 0, &["a"]),
        (1, 1, &["b"]),
        (-2, -1, &["b", "c"]),
        (-100, 1, &["a", "b"]),
        (2, 100, &["c"]),
        (2, 1, &[]),
        (3, 5, &[]),
        (0, -4, &[]),
    ];
    for (start, stop, expected) in ranges {
        let came = subject.run(range_op(&key, start, stop)).await;
        same(&format!("list_range {start}..={stop}"), &came, &list(expected))?;
    }
    Ok(())
}

/// Elements are taken off either end, until there is none.
pub async fn list_pop(subject: &Subject) -> Checked {
    let key = subject.key("l");
    let pop = |side| Op::ListPop { key: key.clone(), side };
    subject.expect(pop(Direction::Left), Reply::Value(None)).await?;
    for element in ["a", "b", "c"] {
        subject.run(push_op(&key, element)).await.map_err(|error| error.to_string())?;
    }
    subject.expect(pop(Direction::Right), value("c")).await?;
    subject.expect(pop(Direction::Left), value("a")).await?;
    subject.expect(pop(Direction::Left), value("b")).await?;
    subject.expect(pop(Direction::Right), Reply::Value(None)).await
}

/// Every equal element is removed, wherever it stands; the others keep their order.
pub async fn list_remove(subject: &Subject) -> Checked {
    let key = subject.key("l");
    let remove = |text| Op::ListRemove { key: key.clone(), value: bytes(text) };
    subject.expect(remove("a"), Reply::Int(0)).await?;
    for element in ["a", "b", "a", "", "c", "a"] {
        subject.run(push_op(&key, element)).await.map_err(|error| error.to_string())?;
    }
    subject.expect(remove("a"), Reply::Int(3)).await?;
    subject.expect(remove("a"), Reply::Int(0)).await?;
    subject.expect(remove(""), Reply::Int(1)).await?;
    subject.expect(range_op(&key, 0, -1), list(&["b", "c"])).await
}
