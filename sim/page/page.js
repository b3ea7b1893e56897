'use strict'
const film = JSON.parse(document.getElementById('film').textContent)
const picture = JSON.parse(document.getElementById('porcupine').textContent)
const $ = id => document.getElementById(id)
const el = (tag, text, attrs) => Object.assign(document.createElement(tag), { textContent: text || '' }, attrs)

// Times are nanoseconds.
const second = 1e9
const stamp = t => (t / second).toFixed(6) + 's'
const broken = film.result.failure
const end = film.end
const brokenAt = broken ? broken.At : -1

// ---- colours -------------------------------------------------------------

const colours = {
  up: '#9aa4af', down: '#ffffff', off: '#24292f', paused: '#e0b400',
  leads: '#8250df', granted: '#2f81f7',
  ready: '#2da44e', boots: '#a6dfb4', dying: '#cf222e', shim: '#d8dee4', 'shim stopped': '#e0b400',
}
const kinds = {
  heartbeat: ['heartbeats', '#c3cad2', false], log: ['log', '#57606a', true], vote: ['votes', '#8250df', true],
  sync: ['syncs', '#54aeff', true], grant: ['grants', '#0550ae', true], other: ['others', '#bf8700', true],
}
const legend = [
  ['#9aa4af', 'daemon runs'], ['#e0b400', 'stopped'], ['#fff', 'no daemon'], ['#24292f', 'no power'],
  ['#8250df', 'leads'], ['#2f81f7', 'holds a lease'], ['#a6dfb4', 'VM boots'], ['#2da44e', 'VM runs'],
  ['#cf222e', 'VM was killed and lives'], ['#d8dee4', 'its shim only'], ['#ffd7d5', 'fault'],
]

// ---- the head ------------------------------------------------------------

$('title').textContent = broken ? 'BROKEN: ' + broken.Promise : 'Nothing is broken'
$('title').className = broken ? 'broken' : ''
$('text').textContent = broken ? broken.Text : ''
const r = film.result
$('meta').append(
  `seed ${r.seed}` + (r.profile ? `, profile ${r.profile}` : '') + (r.mutant ? `, planted bug ${r.mutant}` : '') +
  `, commit ${film.commit || 'unknown'}, ${stamp(end)} simulated` + (broken ? `, broken at ${stamp(brokenAt)}, event ${broken.Event}` : '') + '.')
if (film.command) $('meta').append(' Again: ', el('code', film.command))
for (const [colour, what] of legend) {
  const i = el('i')
  i.style.background = colour
  i.style.border = colour === '#fff' ? '1px dashed #8b949e' : '1px solid transparent'
  $('legend').append(i, what)
}

// ---- what is shown -------------------------------------------------------

const shown = { from: 0, to: end, kinds: {}, nodes: {}, vm: '', cursor: -1 }
const about = vm => broken && (broken.Text.includes(vm.uid) || (vm.name && new RegExp('VM ' + vm.name + '\\b').test(broken.Text)))

for (const k in kinds) {
  shown.kinds[k] = kinds[k][2]
  check($('kinds'), kinds[k][0], shown.kinds[k], kinds[k][1], on => { shown.kinds[k] = on; draw() })
}
shown.kinds.lost = true
check($('kinds'), 'lost ones', true, '#cf222e', on => { shown.kinds.lost = on; draw() })
film.nodes.forEach((n, i) => {
  shown.nodes[i + 1] = true
  check($('nodes'), n.name, true, '', on => { shown.nodes[i + 1] = on; layout(); list() })
})
$('vm').append(el('option', 'all', { value: '' }), ...film.vms.map(v => el('option', `${v.name || '?'} (${v.uid})` + (about(v) ? ' ← broken' : ''), { value: v.uid })))
$('vm').onchange = e => { shown.vm = e.target.value; $('filter').value = shown.vm; layout(); list() }

function check (where, name, on, colour, change) {
  const box = el('input', '', { type: 'checkbox', checked: on, onchange: e => change(e.target.checked) })
  const label = el('label', '')
  label.append(box, name)
  if (colour) label.style.color = colour === '#c3cad2' ? '#8b949e' : colour
  where.append(label)
}

// ---- lanes: faults, clients, and one for each machine ----------------------

film.asks.forEach(a => { // one that heard nothing gave up before it asked the next
  const next = film.asks.find(b => b.c === a.c && b.from > a.from)
  if (a.to < 0 && next) a.gaveUp = next.from
})

// Mishaps are many; a few are shown like other faults.
if (film.faults.filter(f => f.small).length <= 30) film.faults.forEach(f => { f.small = false })

const left = 128
const top0 = 22
let lanes = []
let height = 0
const middle = {} // of a machine's daemon row: where messages begin and end

function layout () {
  lanes = []
  let y = top0
  const lane = (name, rows, node) => {
    if (rows.length === 0) return
    const l = { name, node, y, rows: [] }
    y += 4
    for (const row of rows) {
      l.rows.push({ ...row, y })
      y += row.h + 3
    }
    l.h = y - l.y
    y += 16
    lanes.push(l)
  }
  lane('faults', stack(film.faults.filter(f => !f.small)).map(items => ({ h: 14, items, fault: true })))
  const clients = [...new Set(film.asks.map(a => a.c))].sort((a, b) => a - b)
  lane('clients', clients.map(c => ({ h: 12, name: c === 0 ? 'operator' : c < 0 ? 'keeper of n' + -c : 'client ' + c, items: film.asks.filter(a => a.c === c), ask: true })))
  film.nodes.forEach((n, i) => {
    const node = i + 1
    if (!shown.nodes[node]) return
    const of = row => film.spans.filter(s => s.n === node && s.row === row)
    const rows = [{ h: 12, name: n.server ? 'server, host' : 'host', items: of('daemon') }]
    for (const row of ['leader', 'lease']) {
      if (of(row).length > 0) rows.push({ h: 8, name: row, items: of(row) })
    }
    for (const vm of film.vms) {
      const items = of(vm.uid)
      if (items.length > 0 && (!shown.vm || shown.vm === vm.uid)) rows.push({ h: 11, name: `${vm.name || '?'} ${vm.uid}`, items, hot: about(vm) })
    }
    const small = film.faults.filter(f => f.small && (f.nodes || []).includes(node) && f.nodes.length === 1)
    if (small.length > 0) rows.push({ h: 8, name: 'mishaps', items: small, mishap: true })
    lane(n.name, rows, node)
    middle[node] = lanes[lanes.length - 1].rows[0].y + 6
  })
  height = y + 14 // what the upright lines mean stands below
  draw()
}

// stack puts what overlaps into rows of its own.
function stack (items) {
  const rows = []
  for (const f of items) {
    const to = Math.max(f.to, f.from + end / 60) // room for its name
    let row = rows.find(r => r.until <= f.from)
    if (!row) {
      row = { items: [], until: 0 }
      rows.push(row)
    }
    row.items.push(f)
    row.until = to
  }
  return rows.map(r => r.items)
}

// ---- drawing -------------------------------------------------------------

const chart = $('chart')
const g = chart.getContext('2d')
let width = 0
const x = t => left + (t - shown.from) / (shown.to - shown.from) * (width - left)
const time = px => shown.from + (px - left) / (width - left) * (shown.to - shown.from)
const until = s => s.to < 0 ? s.gaveUp || end : s.to

function size (canvas, h) {
  const ratio = window.devicePixelRatio || 1
  canvas.width = canvas.clientWidth * ratio
  canvas.height = h * ratio
  canvas.style.height = h + 'px'
  const c = canvas.getContext('2d')
  c.setTransform(ratio, 0, 0, ratio, 0, 0)
  return canvas.clientWidth
}

let asked = false
function draw () {
  if (asked) return
  asked = true
  requestAnimationFrame(() => { asked = false; paint(); paintMap() })
}

function paint () {
  width = size(chart, height)
  g.clearRect(0, 0, width, height)
  g.font = '11px system-ui, sans-serif'
  g.textBaseline = 'middle'
  axis()
  g.save()
  g.beginPath()
  g.rect(left, 0, width - left, height)
  g.clip()
  shades()
  letters()
  lanes.forEach(rowsOf)
  ends()
  marks()
  g.restore()
  names()
  $('range').textContent = `${stamp(shown.from)} to ${stamp(shown.to)}`
}

function axis () {
  const span = shown.to - shown.from
  let step = 10 ** Math.floor(Math.log10(span / 6))
  step *= [1, 2, 5, 10].find(k => span / (step * k) <= 10)
  for (let t = Math.ceil(shown.from / step) * step; t <= shown.to; t += step) {
    g.fillStyle = '#eaeef2'
    g.fillRect(x(t), top0 - 4, 1, height)
    g.fillStyle = '#57606a'
    const digits = Math.max(0, Math.min(9, 9 - Math.floor(Math.log10(step))))
    g.textAlign = x(t) > width - 24 ? 'right' : 'center'
    g.fillText((t / second).toFixed(digits) + 's', x(t), 9)
  }
}

// shades lay a fault over the machines that it touches.
function shades () {
  for (const f of film.faults) {
    if (f.small || f.to < shown.from || f.from > shown.to) continue
    for (const l of lanes) {
      if (!l.node || (f.nodes && !f.nodes.includes(l.node))) continue
      g.fillStyle = 'rgba(255, 129, 130, 0.16)'
      g.fillRect(x(f.from), l.y, Math.max(2, x(f.to) - x(f.from)), l.h)
    }
  }
}

function rowsOf (l) {
  for (const row of l.rows) {
    for (const [i, s] of row.items.entries()) {
      const to = until(s)
      if (to < shown.from || s.from > shown.to) continue
      const a = x(s.from)
      const b = Math.max(x(to), a + (row.fault || row.ask ? 3 : 1))
      if (row.mishap) {
        g.fillStyle = '#bf3989'
        g.fillRect(a - 1, row.y, 3, row.h)
        continue
      }
      g.fillStyle = row.fault ? '#ffd7d5' : row.ask ? (s.to < 0 ? '#ffe2b8' : s.bad ? '#dbe1e8' : '#cfe3ff') : colours[s.state] || '#ccc'
      g.fillRect(a, row.y, b - a, row.h)
      if (s.state === 'down') {
        g.strokeStyle = '#8b949e'
        g.setLineDash([3, 3])
        g.strokeRect(a, row.y + 0.5, b - a, row.h - 1)
        g.setLineDash([])
      }
      if (row.hot && s.state !== 'shim') {
        g.strokeStyle = '#b3261e'
        g.lineWidth = 2
        g.strokeRect(a, row.y, b - a, row.h)
        g.lineWidth = 1
      }
      caption(row, s, a, row.fault && row.items[i + 1] ? x(row.items[i + 1].from) : b)
    }
  }
}

function caption (row, s, a, b) {
  let words = s.label || ''
  if (row.ask) words = words.replace(/^client -?\d+: /, '')
  if (s.state === 'paused' || s.state === 'off') words = s.state === 'off' ? 'no power' : 'stopped'
  const from = Math.max(a, left) + 3
  const room = (row.fault && s === row.items.at(-1) ? width : Math.min(b, width)) - from
  if (words === '' || room < 24 || (row.h < 10 && room < 50)) return
  g.font = (row.h < 10 ? 8 : 10) + 'px system-ui, sans-serif'
  g.fillStyle = row.fault || row.ask || ['boots', 'shim', 'paused', 'shim stopped'].includes(s.state) ? '#24292f' : '#fff'
  g.textAlign = 'left'
  while (words.length > 3 && g.measureText(words).width > room) words = words.slice(0, -2)
  g.fillText(words, from, row.y + row.h / 2 + 0.5)
}

function letters () {
  const inView = film.letters.filter(visible)
  g.globalAlpha = Math.max(0.15, Math.min(0.85, 400 / inView.length))
  for (const m of inView) {
    g.strokeStyle = m.x ? '#cf222e' : kinds[m.k][1]
    const a = x(m.s)
    const b = x(m.t)
    const from = middle[m.a]
    let to = middle[m.b]
    g.beginPath()
    if (m.x) { // it gets half-way
      to = from + (to - from) * (m.x === 'nobody there' ? 1 : 0.4)
      g.setLineDash([4, 3])
    }
    const bx = m.x ? a + (b - a) * (m.x === 'nobody there' ? 1 : 0.4) : b
    g.moveTo(a, from)
    g.lineTo(bx, to)
    g.stroke()
    g.setLineDash([])
    if (m.x) {
      g.beginPath()
      g.moveTo(bx - 3, to - 3); g.lineTo(bx + 3, to + 3); g.moveTo(bx + 3, to - 3); g.lineTo(bx - 3, to + 3)
      g.stroke()
    }
  }
  g.globalAlpha = 1
}

// ends are where messages begin (a ring) and arrive (a dot), once they can be told apart.
function ends () {
  const inView = film.letters.filter(visible)
  if (inView.length > 400) return
  for (const m of inView) {
    g.strokeStyle = g.fillStyle = m.x ? '#cf222e' : kinds[m.k][1]
    g.beginPath()
    g.arc(x(m.s), middle[m.a], 2.5, 0, 7)
    g.stroke()
    if (m.x) continue
    g.beginPath()
    g.arc(x(m.t), middle[m.b], 3, 0, 7)
    g.fill()
  }
}

const visible = m => m.t >= shown.from && m.s <= shown.to && shown.nodes[m.a] && shown.nodes[m.b] &&
  (shown.kinds[m.k] && (!m.x || shown.kinds.lost))

function marks () {
  const mark = (t, colour, words, y) => {
    if (t < shown.from || t > shown.to) return
    g.fillStyle = colour
    g.fillRect(x(t), top0 - 6, 1.5, height)
    g.font = 'bold 11px system-ui, sans-serif'
    g.textAlign = x(t) > width - 140 ? 'right' : 'left'
    g.fillText(words, x(t) + (g.textAlign === 'right' ? -4 : 4), y)
  }
  const crowded = film.healed && Math.abs(x(film.healed) - x(film.result.founded)) < 140
  mark(film.result.founded, '#57606a', crowded ? '' : 'the cluster is founded', height - 8)
  if (film.healed) mark(film.healed, '#1a7f37', 'everything is healed', height - 8)
  if (broken) mark(brokenAt, '#b3261e', broken.Promise, height - 8)
  if (shown.cursor >= 0) mark(shown.cursor, '#bf8700', stamp(shown.cursor), top0 + 2)
}

function names () {
  g.textAlign = 'left'
  for (const l of lanes) {
    g.fillStyle = '#d0d7de'
    g.fillRect(0, l.y + l.h + 7, width, 1)
    g.font = 'bold 12px system-ui, sans-serif'
    g.fillStyle = '#1b1f24'
    g.fillText(l.name, 2, l.rows[0].y + 6)
    for (const row of l.rows) {
      if (!row.name) continue
      g.font = (row.hot ? 'bold ' : '') + '10px system-ui, sans-serif'
      g.fillStyle = row.hot ? '#b3261e' : '#57606a'
      g.textAlign = 'right'
      g.fillText(row.name, left - 6, row.y + row.h / 2)
      g.textAlign = 'left'
    }
  }
}

// ---- the map of the whole run ----------------------------------------------

const map = $('map')
function paintMap () {
  const w = size(map, 36)
  const c = map.getContext('2d')
  const at = t => left + t / end * (w - left)
  c.fillStyle = '#f6f8fa'
  c.fillRect(left, 0, w - left, 36)
  for (const f of film.faults) {
    c.fillStyle = f.small ? '#f0b6d3' : '#ff8182'
    c.fillRect(at(f.from), f.small ? 26 : 4, Math.max(1, at(Math.min(f.to, end)) - at(f.from)), f.small ? 6 : 18)
  }
  if (broken) {
    c.fillStyle = '#b3261e'
    c.fillRect(at(brokenAt) - 1, 0, 2, 36)
  }
  c.strokeStyle = '#0550ae'
  c.lineWidth = 2
  c.strokeRect(at(shown.from) + 1, 1, Math.max(3, at(shown.to) - at(shown.from) - 2), 34)
  c.fillStyle = '#57606a'
  c.font = '11px system-ui, sans-serif'
  c.fillText('the whole run', 2, 21)
}
const mapTime = e => Math.max(0, Math.min(end, (e.offsetX - left) / (map.clientWidth - left) * end))
map.onpointerdown = e => {
  map.setPointerCapture(e.pointerId)
  const from = mapTime(e)
  const half = (shown.to - shown.from) / 2
  move(from - half, from + half)
  map.onpointermove = e => {
    const to = mapTime(e)
    if (Math.abs(to - from) > end / 200) move(Math.min(from, to), Math.max(from, to))
  }
}
map.onpointerup = () => { map.onpointermove = null }

// ---- moving --------------------------------------------------------------

function move (from, to) {
  const span = Math.max(1000, Math.min(to - from, end))
  shown.from = Math.max(0, Math.min(from, end - span))
  shown.to = shown.from + span
  $('tip').style.display = 'none'
  draw()
}
function zoom (factor, at) {
  const t = at === undefined ? (shown.from + shown.to) / 2 : at
  move(t - (t - shown.from) * factor, t + (shown.to - t) * factor)
}
const pan = part => move(shown.from + part * (shown.to - shown.from), shown.to + part * (shown.to - shown.from))
const toEnd = () => {
  const t = broken ? brokenAt : end
  move(t - 30 * second, Math.min(end, t + second))
}
$('in').onclick = () => zoom(0.5)
$('out').onclick = () => zoom(2)
$('all').onclick = () => move(0, end)
$('end').onclick = toEnd
onkeydown = e => {
  if (e.target.tagName === 'INPUT' || e.ctrlKey || e.metaKey) return
  const keys = { w: () => zoom(0.7), s: () => zoom(1.4), a: () => pan(-0.2), d: () => pan(0.2), 0: () => move(0, end), f: toEnd }
  if (keys[e.key]) keys[e.key]()
}
chart.addEventListener('wheel', e => {
  if (e.ctrlKey || e.metaKey) zoom(e.deltaY > 0 ? 1.25 : 0.8, time(e.offsetX))
  else if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) pan((e.deltaX || e.deltaY) / 1000)
  else return
  e.preventDefault()
}, { passive: false })
let drag = null
chart.onpointerdown = e => { drag = { x: e.offsetX, from: shown.from, to: shown.to, moved: false }; chart.setPointerCapture(e.pointerId) }
chart.onpointerup = e => {
  if (drag && !drag.moved && e.offsetX > left) goTo(time(e.offsetX))
  drag = null
}
chart.onpointermove = e => {
  if (drag) {
    const d = (drag.x - e.offsetX) / (width - left) * (drag.to - drag.from)
    if (Math.abs(drag.x - e.offsetX) > 3) drag.moved = true
    if (drag.moved) move(drag.from + d, drag.to + d)
    return
  }
  const words = pointed(e.offsetX, e.offsetY)
  const tip = $('tip')
  tip.style.display = words ? 'block' : 'none'
  tip.textContent = words
  tip.style.left = Math.min(e.clientX + 12, innerWidth - 540) + 'px'
  tip.style.top = e.clientY + 14 + 'px'
}
chart.onpointerleave = () => { $('tip').style.display = 'none' }

// pointed says what is under the pointer.
function pointed (px, py) {
  if (px < left) return ''
  for (const l of lanes) {
    for (const row of l.rows) {
      if (py < row.y || py > row.y + row.h) continue
      const s = row.items.filter(s => px >= x(s.from) - 2 && px <= Math.max(x(until(s)), x(s.from) + 3)).pop()
      if (s) return `${row.name && !row.ask ? (l.node ? l.name + ', ' : '') + row.name + ': ' : ''}${[s.state, s.label].filter(Boolean).join(', ')}\n` + lasting(s)
    }
  }
  let best = null
  let least = 5
  for (const m of film.letters) {
    if (!visible(m)) continue
    const d = distance(px, py, x(m.s), middle[m.a], x(m.t), middle[m.b])
    if (d < least) { least = d; best = m }
  }
  if (!best) return ''
  return `n${best.a} → n${best.b}: ${best.w}\nsent at ${stamp(best.s)}, ` + (best.x ? best.x : `there after ${((best.t - best.s) / 1e6).toFixed(3)} ms`)
}
const lasting = s => s.to === s.from ? 'at ' + stamp(s.from) : `${stamp(s.from)} to ${s.to < 0 ? 'the end' : stamp(s.to)}` + (s.to < 0 ? '' : ` (${stamp(s.to - s.from)})`)
function distance (px, py, ax, ay, bx, by) {
  const dx = bx - ax
  const dy = by - ay
  const t = Math.max(0, Math.min(1, ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1)))
  return Math.hypot(px - ax - t * dx, py - ay - t * dy)
}

// ---- the list ------------------------------------------------------------

const lineHeight = 18
let lines = []
function list () {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean)
  lines = film.lines.filter(l => {
    const node = film.nodes.findIndex(n => n.name === l.who) + 1
    const text = ((l.who || '') + ' ' + l.text).toLowerCase()
    return (!node || shown.nodes[node]) && words.every(w => text.includes(w))
  })
  $('count').textContent = `${lines.length} of ${film.lines.length} lines`
  $('tall').style.height = lines.length * lineHeight + 'px'
  rows()
}
function rows () {
  const first = Math.floor($('list').scrollTop / lineHeight)
  const some = lines.slice(first, first + 40)
  $('rows').style.transform = `translateY(${first * lineHeight}px)`
  const now = nearest()
  $('rows').replaceChildren(...some.map((l, i) => {
    const row = el('div', `${stamp(l.at).padStart(14)}  ${(l.who || '').padEnd(4)} ${l.text.replace(/\n/g, ' ')}`, { title: l.text })
    if (!l.who) row.classList.add(/^(client|operator)/.test(l.text) ? 'asks' : 'world')
    if (first + i === now) row.classList.add('now')
    row.onclick = () => {
      shown.cursor = l.at
      if (l.at < shown.from || l.at > shown.to) {
        const half = (shown.to - shown.from) / 2
        move(l.at - half, l.at + half)
      }
      rows()
      draw()
    }
    return row
  }))
}
// nearest is the last line at or before the cursor.
function nearest () {
  let lo = 0
  let hi = lines.length
  while (lo < hi) {
    const mid = (lo + hi) >> 1
    if (lines[mid].at <= shown.cursor) lo = mid + 1
    else hi = mid
  }
  return lo - 1
}
function goTo (t) {
  shown.cursor = t
  $('list').scrollTop = Math.max(0, nearest() - 9) * lineHeight
  rows()
  draw()
}
$('list').onscroll = rows
$('filter').oninput = list

// ---- begin ---------------------------------------------------------------

if (picture) $('picture').srcdoc = picture
if (!picture) $('history').remove()
onresize = draw
layout()
list()
const wanted = /^#([\d.]+)-([\d.]+)$/.exec(location.hash) // seconds, as #12.5-13
if (wanted) move(wanted[1] * second, wanted[2] * second)
else if (broken && broken.Phase !== 'healed') toEnd()
else move(0, end)
goTo(wanted ? shown.from : broken ? brokenAt : end)
