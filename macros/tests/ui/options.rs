use larder::cached;

#[cached]
async fn nothing() -> u64 {
    7
}

#[cached(namespace = "user", key = "{id}", grace = "1m")]
async fn grace_without_ttl(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", expires = "5m")]
async fn unknown(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", near, ttl = "1m", near = false)]
async fn twice(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "0s", negative_ttl = "0ms", near, near_ttl = "0m")]
async fn zero(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5 minutes", grace = "300", lease = 3)]
async fn no_durations(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "1.5s", grace = "", hard_timeout = "9999999999999d")]
async fn no_durations_either(id: u64) -> u64 {
    id
}

#[cached(namespace = "user:", key = "{id}", ttl = "5m", lease = "5ms", soft_timeout = "1m")]
async fn out_of_range(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", jitter = 2, early_refresh = -1, near = "yes")]
async fn no_numbers(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", near_ttl = "1m", broadcast)]
async fn far(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", near, near_max_bytes = 0, invalidate = "x", cache, skip)]
async fn wrong_shapes(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", max_json_bytes = 0)]
async fn no_room(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", max_json_bytes = 536_870_913)]
async fn too_much_room(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", "5m")]
async fn no_option(id: u64) -> u64 {
    id
}

fn main() {}
