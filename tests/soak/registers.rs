//! Values that one worker alone writes, by every method that writes one whole.

use std::sync::Arc;

use larder::Presence;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::register::Register;
use crate::tally::Promise;
use crate::world::{Ended, World, breathe, patience};

const STRING_WORKERS: u64 = 6;

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    for worker in 0..STRING_WORKERS {
        workers.spawn(strings(Arc::clone(world), worker));
    }
    for worker in 0..2 {
        workers.spawn(fields(Arc::clone(world), worker));
        workers.spawn(documents(Arc::clone(world), worker));
        workers.spawn(claims(Arc::clone(world), worker));
        workers.spawn(many(Arc::clone(world), worker));
    }
}

async fn strings(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(1, worker));
    let mut own: Vec<_> = (0..16).map(|key| Register::new(format!("own:{worker}:{key}"))).collect();
    while !world.is_over() {
        let register = random.usize(..own.len());
        let register = &mut own[register];
        match random.u32(..12) {
            0..4 => {
                let patience = patience(&mut random);
                let (number, value) = register.value(&world, &mut random);
                let set = cache.set_value(&register.name, value, None);
                let ended = world.write_or_drop("set_value", set, patience).await;
                register.wrote(number, ended);
            }
            4 => {
                register.ask(&world);
                let deleted = world.call("delete_key", cache.delete_key(&register.name)).await;
                if let Ok(deleted) = deleted {
                    register.saw_whether(&world, deleted == 1);
                }
                register.wrote(0, Ended::from(&deleted));
            }
            5 => {
                own.iter_mut().for_each(|register| register.ask(&world));
                let names: Vec<&str> = own.iter().map(|register| &*register.name).collect();
                if let Ok(values) = world.call("get_many", cache.get_many(&names)).await {
                    for (register, value) in own.iter_mut().zip(&values) {
                        register.saw(&world, value.as_deref());
                    }
                }
            }
            6 => {
                register.ask(&world);
                if let Ok(there) = world.call("key_exists", cache.key_exists(&register.name)).await
                {
                    register.saw_whether(&world, there);
                }
            }
            7 => {
                register.ask(&world);
                if let Ok(value) = world.call("get_bytes", cache.get_bytes(&register.name)).await {
                    let value = value.as_ref().map(|value| std::str::from_utf8(value).unwrap());
                    register.saw(&world, value);
                }
            }
            _ => {
                register.ask(&world);
                if let Ok(value) = world.call("get_value", cache.get_value(&register.name)).await {
                    register.saw(&world, value.as_deref());
                }
            }
        }
        breathe(&mut random).await;
    }
}

async fn fields(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(2, worker));
    let hash = format!("hash:{worker}");
    let mut own: Vec<_> = (0..16).map(|field| Register::new(format!("f{field}"))).collect();
    while !world.is_over() {
        let register = random.usize(..own.len());
        let register = &mut own[register];
        match random.u32(..4) {
            0 => {
                let (number, value) = register.value(&world, &mut random);
                let set = cache.set_hash(&hash, &register.name, value);
                let set = world.call("set_hash", set).await;
                if let Ok(is_new) = set {
                    register.saw_whether(&world, is_new == 0);
                }
                register.wrote(number, Ended::from(&set));
            }
            1 => {
                register.ask(&world);
                let deleted = cache.delete_hash_field(&hash, &register.name);
                let deleted = world.call("delete_hash_field", deleted).await;
                if let Ok(deleted) = deleted {
                    register.saw_whether(&world, deleted == 1);
                }
                register.wrote(0, Ended::from(&deleted));
            }
            2 => {
                own.iter_mut().for_each(|register| register.ask(&world));
                if let Ok(all) = world.call("get_hash_all", cache.get_hash_all(&hash)).await {
                    for one in &mut own {
                        let value = all.get(&one.name).map(|value| &**value);
                        one.saw(&world, value);
                    }
                }
            }
            _ => {
                register.ask(&world);
                let value = cache.get_hash(&hash, &register.name);
                if let Ok(value) = world.call("get_hash", value).await {
                    register.saw(&world, value.as_deref());
                }
            }
        }
        breathe(&mut random).await;
    }
}

/// What is stored as a JSON object. Each item is the number again, so that a half is seen.
#[derive(Serialize, Deserialize)]
struct Document {
    name: String,
    number: u64,
    items: Vec<u64>,
}

/// The same as a JSON array.
type Row = (String, u64, Vec<u64>);

async fn documents(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(3, worker));
    let mut object = Register::new(format!("object:{worker}"));
    let mut array = Register::new(format!("array:{worker}"));
    while !world.is_over() {
        let items = |number| vec![number; fastrand::usize(..500)];
        match random.u32(..6) {
            0 => {
                let (name, number) = (object.name.clone(), object.number(&world));
                let value = Document { name, number, items: items(number) };
                let set = cache.set_dict(&object.name, &value, None);
                let ended = world.write_or_drop("set_dict", set, patience(&mut random)).await;
                object.wrote(number, ended);
            }
            1 => {
                let (name, number) = (array.name.clone(), array.number(&world));
                let value: Row = (name, number, items(number));
                let set = cache.set_list(&array.name, &value, None);
                let ended = world.write_or_drop("set_list", set, patience(&mut random)).await;
                array.wrote(number, ended);
            }
            2 => {
                object.ask(&world);
                array.ask(&world);
                let both = [&object.name, &array.name];
                let ended = world.write("batch_delete_keys", cache.batch_delete_keys(both)).await;
                // On a cluster one may be gone, and the other not.
                let ended = if ended == Ended::Acked { ended } else { Ended::Unknown };
                object.wrote(0, ended);
                array.wrote(0, ended);
            }
            3..5 => {
                object.ask(&world);
                let read = cache.get_dict::<Document>(&object.name);
                if let Ok(read) = world.call("get_dict", read).await {
                    let read = read.map(|read| (read.name, read.number, read.items));
                    judge(&world, &mut object, read);
                }
            }
            _ => {
                array.ask(&world);
                let read = cache.get_list_value::<Row>(&array.name);
                if let Ok(read) = world.call("get_list_value", read).await {
                    judge(&world, &mut array, read);
                }
            }
        }
        breathe(&mut random).await;
    }
}

fn judge(world: &World, register: &mut Register, read: Option<Row>) {
    if let Some((_, number, items)) = &read
        && items.iter().any(|item| item != number)
    {
        world.broke(Promise::Torn, format_args!("{}: {number} and others", register.name));
    }
    register.saw_number(world, read.as_ref().map(|(name, number, _)| (&**name, *number)));
}

/// Writes where there is something, or nothing: the answer says which.
async fn claims(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(4, worker));
    let mut own: Vec<_> =
        (0..4).map(|key| Register::new(format!("claim:{worker}:{key}"))).collect();
    while !world.is_over() {
        let register = random.usize(..own.len());
        let register = &mut own[register];
        let op = random.u32(..4);
        if op == 0 {
            register.ask(&world);
            if let Ok(value) = world.call("get_value", cache.get_value(&register.name)).await {
                register.saw(&world, value.as_deref());
            }
        } else if op == 1 {
            register.ask(&world);
            let ended = world.write("delete_key", cache.delete_key(&register.name)).await;
            register.wrote(0, ended);
        } else {
            let presence = if op == 2 { Presence::Absent } else { Presence::Present };
            let (number, value) = register.value(&world, &mut random);
            let set = cache.set_value_if(&register.name, value, None, presence);
            match world.call("set_value_if", set).await {
                Ok(written) => {
                    register.saw_whether(&world, written == (op == 3));
                    if written {
                        register.wrote(number, Ended::Acked);
                    }
                }
                failed => register.wrote(number, Ended::from(&failed)),
            }
        }
        breathe(&mut random).await;
    }
}

/// Several keys in one call.
async fn many(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(5, worker));
    let mut own: Vec<_> = (0..6).map(|key| Register::new(format!("many:{worker}:{key}"))).collect();
    while !world.is_over() {
        own.iter_mut().for_each(|register| register.ask(&world));
        match random.u32(..4) {
            0 => {
                let mut values = Vec::new();
                for register in &mut own {
                    values.push(register.value(&world, &mut random));
                }
                let names = own.iter().map(|register| register.name.clone());
                let pairs = names.zip(values.iter().map(|(_, value)| &**value));
                let ended = world.write("set_many", cache.set_many(pairs, None)).await;
                // Some of them may have been written.
                let ended = if ended == Ended::Acked { ended } else { Ended::Unknown };
                for (register, (number, _)) in own.iter_mut().zip(values) {
                    register.wrote(number, ended);
                }
            }
            1 => {
                let names: Vec<&str> = own.iter().map(|register| &*register.name).collect();
                let there: Option<Vec<bool>> = own.iter().map(Register::is_there).collect();
                let deleted = cache.batch_delete_keys(&names);
                let deleted = world.call("batch_delete_keys", deleted).await;
                if let (Ok(deleted), Some(there)) = (&deleted, there) {
                    let were = there.iter().filter(|one| **one).count() as u64;
                    if *deleted != were {
                        let lost = !own.iter().all(|one| one.is_certain(&world));
                        let seen = format_args!("{deleted} of {were} keys were deleted");
                        world.tally.broke(Promise::Wrong, lost, seen);
                    }
                }
                let ended = if deleted.is_ok() { Ended::Acked } else { Ended::Unknown };
                own.iter_mut().for_each(|register| register.wrote(0, ended));
            }
            _ => {
                let names: Vec<&str> = own.iter().map(|register| &*register.name).collect();
                if let Ok(values) = world.call("get_many", cache.get_many(&names)).await {
                    for (register, value) in own.iter_mut().zip(&values) {
                        register.saw(&world, value.as_deref());
                    }
                }
            }
        }
        breathe(&mut random).await;
    }
}
