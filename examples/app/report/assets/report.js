// What moves on a page of `smooseg report`: pictures and tables are complete without it, the charts need it.
'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const root = document.documentElement;
  root.classList.add('js');
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const on = (id, event, action) => byId(id) && byId(id).addEventListener(event, action);

  // ---- Palettes: the classes' own colours, or ones that colour-blind people can tell apart (Okabe and Ito, 2008), the
  // further rounds of eight darker and lighter.
  const okabeIto = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
    [204, 121, 167], [148, 148, 148]];
  const shade = (color, round) => {
    const [to, weight] = [[0, 0], [0, 0.45], [255, 0.55], [0, 0.7], [255, 0.8]][round % 5];
    return color.map((level) => Math.round(level + (to - level) * weight));
  };
  const own = data.colors;
  const safe = own.map((color, k) => k === own.length - 1 ? [0, 0, 0] : shade(okabeIto[k % 8], Math.floor(k / 8)));
  let palette = own;
  const css = (color) => `rgb(${color.join(',')})`;
  const usePalette = (isSafe) => {
    palette = isSafe ? safe : own;
    palette.forEach((color, k) => root.style.setProperty(`--c${k}`, css(color)));
    redraw();
    drawMaps();
  };

  // ---- Label maps: each picture's pixels give the numbers of their classes, since no two classes share a colour.
  const numberOf = new Map(own.map((color, k) => [color[0] << 16 | color[1] << 8 | color[2], k]));
  const decoded = new WeakMap();  // image -> {width, height, labels}
  const decode = (image) => {
    if (decoded.has(image)) return decoded.get(image);
    if (!image.complete || image.naturalWidth === 0) return null;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const canvas = document.createElement('canvas');
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext('2d', {willReadFrequently: true});
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    const labels = new Int16Array(width * height).fill(-1);
    const shares = new Map();
    let counted = 0;
    for (let p = 0; p < labels.length; ++p) {
      if (pixels[4 * p + 3] === 0) continue;
      const k = numberOf.get(pixels[4 * p] << 16 | pixels[4 * p + 1] << 8 | pixels[4 * p + 2]);
      labels[p] = k;
      shares.set(k, (shares.get(k) || 0) + 1);
      ++counted;
    }
    for (const [k, count] of shares) shares.set(k, count / counted);
    const map = {width, height, labels, shares};
    decoded.set(image, map);
    return map;
  };

  const state = {filter: new Set(), borders: false, source: 'run0', opacity: 60};
  /// The image that a tile shows: the overlay shows that of the chosen run.
  const sourceOf = (image) => image.dataset.map !== 'over' ? image :
      image.closest('.picture').querySelector(`img.map[data-map="${state.source}"]`) || image;

  const draw = (image) => {
    const map = decode(sourceOf(image));
    if (!map) return;
    let canvas = image.nextElementSibling;
    if (!canvas) {
      canvas = document.createElement('canvas');
      canvas.className = 'map';
      canvas.setAttribute('aria-hidden', 'true');
      image.after(canvas);
      image.classList.add('covered');
    }
    const {width, height, labels} = map;
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext('2d');
    const picture = context.createImageData(width, height);
    const isOver = image.dataset.map === 'over';
    const borders = state.borders && isOver;
    const thickness = Math.max(1, Math.round(width / 200));
    for (let y = 0, p = 0; y < height; ++y) {
      for (let x = 0; x < width; ++x, ++p) {
        const k = labels[p];
        if (k < 0) continue;
        if (borders) {
          const right = Math.min(x + thickness, width - 1), below = Math.min(y + thickness, height - 1);
          if (labels[y * width + right] === k && labels[below * width + x] === k) continue;
        }
        const isDim = state.filter.size > 0 && !state.filter.has(k);
        picture.data[4 * p] = palette[k][0];
        picture.data[4 * p + 1] = palette[k][1];
        picture.data[4 * p + 2] = palette[k][2];
        picture.data[4 * p + 3] = isDim ? (isOver ? 0 : 40) : 255;
      }
    }
    context.putImageData(picture, 0, 0);
  };

  // Only pictures in view are drawn; the others when they come into view.
  const visible = new Set();
  const stale = new Set();
  const drawPicture = (article) => all('img.map', article).forEach(draw);
  const watch = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return visible.delete(entry.target);
    visible.add(entry.target);
    if (stale.delete(entry.target)) Promise.all(all('img.map', entry.target).map((i) => i.decode().catch(() => {})))
        .then(() => drawPicture(entry.target));
  }), {rootMargin: '400px'});
  const articles = all('.picture');
  articles.forEach((article) => {
    stale.add(article);
    watch.observe(article);
  });
  const redraw = (mustHave) => articles.forEach((article) => {
    if (mustHave) article.hidden = !mustHave(article);
    visible.has(article) ? drawPicture(article) : stale.add(article);
  });

  // ---- Hovering names the class and its share of the picture.
  const tip = document.createElement('div');
  tip.id = 'tip';
  tip.hidden = true;
  tip.setAttribute('role', 'status');
  document.body.append(tip);
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const point = (event) => {
    const view = event.target.closest && event.target.closest('.view');
    const image = view && view.querySelector('img.map');
    const map = image && decode(sourceOf(image));
    tip.hidden = true;
    if (!map) return;
    const box = view.getBoundingClientRect();
    const x = Math.min(map.width - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * map.width)));
    const y = Math.min(map.height - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * map.height)));
    const k = map.labels[y * map.width + x];
    tip.textContent = k < 0 ? 'ignored' : `${data.names[k]} · ${percent(map.shares.get(k))}`;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };
  document.addEventListener('pointermove', point);
  document.addEventListener('pointerdown', point);

  // ---- Controls of the gallery.
  const setOpacity = (value) => {
    state.opacity = Math.min(100, Math.max(0, value));
    root.style.setProperty('--opacity', state.opacity / 100);
    if (byId('opacity')) byId('opacity').value = state.opacity;
  };
  on('opacity', 'input', (event) => setOpacity(Number(event.target.value)));
  on('borders', 'change', (event) => {
    state.borders = event.target.checked;
    redraw();
  });
  on('safe', 'change', (event) => usePalette(event.target.checked));
  on('source', 'change', (event) => {
    state.source = event.target.value;
    redraw();
  });
  const shows = (article) => {
    const group = byId('group') ? byId('group').value : '';
    if (group && article.closest('.group').dataset.group !== group) return false;
    if (state.filter.size === 0) return true;
    return all('img.map', article).some((image) => {
      const map = decode(image);
      return map && [...state.filter].some((k) => map.shares.has(k));
    });
  };
  const refilter = () => {
    redraw(shows);
    all('.group').forEach((group) => { group.hidden = all('.picture:not([hidden])', group).length === 0; });
    const count = articles.filter((article) => !article.hidden).length;
    if (byId('count')) byId('count').textContent = `${count} of ${articles.length} pictures`;
    if (byId('reset')) byId('reset').hidden = state.filter.size === 0;
  };
  on('group', 'change', refilter);
  all('button.class').forEach((button) => button.addEventListener('click', () => {
    const k = Number(button.dataset.class);
    const isOn = !state.filter.delete(k);
    if (isOn) state.filter.add(k);
    button.setAttribute('aria-pressed', isOn);
    refilter();
  }));
  on('reset', 'click', () => {
    state.filter.clear();
    all('button.class').forEach((button) => button.setAttribute('aria-pressed', false));
    refilter();
  });

  // Keys, while a picture has the focus: arrows go from one to the next, - and + move the slider, b and c switch.
  const toggle = (id) => byId(id) && byId(id).click();
  document.addEventListener('keydown', (event) => {
    const article = document.activeElement && document.activeElement.closest('.picture');
    if (!article || event.ctrlKey || event.altKey || event.metaKey) return;
    const shown = articles.filter((other) => !other.hidden);
    const go = (step) => {
      const next = shown[shown.indexOf(article) + step];
      if (next) next.focus();
    };
    const actions = {ArrowRight: () => go(1), ArrowLeft: () => go(-1), '+': () => setOpacity(state.opacity + 10),
      '-': () => setOpacity(state.opacity - 10), b: () => toggle('borders'), c: () => toggle('safe')};
    const action = actions[event.key];
    if (!action) return;
    action();
    event.preventDefault();
  });

  // ---- The confusion matrix as shares of the class, of the cluster, or in pixels.
  on('normalize', 'change', (event) => all('table.heat').forEach((table) => {
    const rows = all('tbody tr', table).map((row) => all('td', row));
    const counts = rows.map((cells) => cells.map((cell) => Number(cell.dataset.count)));
    const sums = {
      column: counts[0].map((_, c) => counts.reduce((sum, row) => sum + row[c], 0)),
      row: counts.map((row) => row.reduce((sum, count) => sum + count, 0)),
    };
    const most = Math.max(...counts.flat());
    rows.forEach((cells, r) => cells.forEach((cell, c) => {
      const count = counts[r][c], kind = event.target.value;
      const share = count / Math.max(1, kind === 'column' ? sums.column[c] : kind === 'row' ? sums.row[r] : most);
      cell.style.setProperty('--v', share.toFixed(4));
      cell.classList.toggle('deep', share > 0.75);
      cell.textContent = count === 0 ? '' : kind === 'count' ? count : (100 * share).toFixed(1);
    }));
  }));

  // ---- Charts.
  const colorOf = (index) => css(shade(okabeIto[[4, 5, 2, 6, 0, 1, 7, 3][index % 8]], Math.floor(index / 8)));
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const charts = [];
  const useTheme = () => {
    Chart.defaults.color = style('--text-2');
    Chart.defaults.borderColor = style('--line');
    charts.forEach((chart) => {
      Object.values(chart.options.scales || {}).forEach((scale) => {
        scale.grid = {...scale.grid, color: style('--line')};
        scale.ticks = {...scale.ticks, color: style('--text-2')};
        if (scale.title) scale.title.color = style('--text-2');
      });
      chart.options.plugins.legend.labels.color = style('--text-2');
      chart.update('none');
    });
  };
  const panel = (title, hint) => {
    const figure = document.createElement('figure');
    figure.className = 'chart';
    const caption = document.createElement('figcaption');
    caption.textContent = title;
    const note = document.createElement('small');
    note.textContent = hint || '';
    caption.append(' ', note);
    const box = document.createElement('div');
    const canvas = document.createElement('canvas');
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `${title}. ${hint || ''}`);
    box.append(canvas);
    figure.append(caption, box);
    return {figure, canvas};
  };
  const axis = (title, more = {}) => ({title: {display: Boolean(title), text: title}, ...more});
  const chart = (place, title, hint, config) => {
    const {figure, canvas} = panel(title, hint);
    place.append(figure);
    config.options = {animation: false, responsive: true, maintainAspectRatio: false, ...config.options};
    config.options.plugins = {legend: {labels: {boxWidth: 14, boxHeight: 2}, ...config.legend}, ...config.options.plugins};
    charts.push(new Chart(canvas, config));
  };
  Chart.defaults.font.family = 'system-ui, sans-serif';

  const dashes = [[], [6, 4], [2, 3], [8, 3, 2, 3]];
  const lines = (title, hint, keys, yTitle, more = {}) => {
    const datasets = [];
    data.runs.forEach((run, r) => keys.forEach(([key, name], i) => {
      const points = run.log.filter((line) => typeof line[key] === 'number').map((line) => ({x: line.step, y: line[key]}));
      if (points.length === 0) return;
      const several = data.runs.length > 1;
      datasets.push({label: several ? `${run.name}: ${name}` : name, data: points, borderWidth: 1.8,
        pointRadius: points.length < 3 ? 3 : 0, pointHitRadius: 6,
        borderColor: colorOf(several ? r : i), backgroundColor: colorOf(several ? r : i),
        borderDash: several ? dashes[i % dashes.length] : []});
    }));
    if (datasets.length === 0) return;
    chart(byId('charts'), title, hint, {type: 'line', data: {datasets}, options: {
      parsing: false, normalized: true, interaction: {mode: 'nearest', axis: 'x', intersect: false},
      scales: {x: axis('step', {type: 'linear'}), y: axis(yTitle, more)}}});
  };
  const drawTraining = () => {
    lines('Loss', 'total = within + across + data', [['total', 'total'], ['within', 'within'], ['across', 'across'],
      ['data', 'data']]);
    lines('Mean label penalty', '0: all patches alike, 1: all different', [['within_penalty_mean', 'within images'],
      ['across_penalty_mean', 'across images']]);
    data.runs.filter((run) => run.log.some((line) => line.penalty_histogram)).forEach((run) => {
      const log = run.log.filter((line) => line.penalty_histogram);
      const bins = [[0, 0.2], [0.2, 0.4], [0.4, 0.6], [0.6, 0.8], [0.8, 1]];
      const tints = [[0, 73, 115], [86, 180, 233], [190, 190, 190], [240, 170, 110], [190, 80, 0]].map(css);
      const share = (histogram, [from, to]) => 100 * histogram.reduce((sum, value, i) => {
        const middle = (i + 0.5) / histogram.length;
        return middle > from && middle < to ? sum + value : sum;
      }, 0);
      const name = data.runs.length > 1 ? `: ${run.name}` : '';
      chart(byId('charts'), `Penalty of pairs through time${name}`, 'shares of pairs of patches of one image in %', {
        type: 'line', data: {datasets: bins.map((bin, i) => ({label: `${bin[0]} to ${bin[1]}`, fill: true, pointRadius: 0,
          borderWidth: 0.5, borderColor: tints[i], backgroundColor: tints[i],
          data: log.map((line) => ({x: line.step, y: share(line.penalty_histogram, bin)}))}))},
        options: {parsing: false, interaction: {mode: 'index', intersect: false},
          scales: {x: axis('step', {type: 'linear', min: log[0].step, max: log[log.length - 1].step}),
            y: axis('', {stacked: true, min: 0, max: 100})}}});
      const last = log[log.length - 1].penalty_histogram;
      chart(byId('charts'), `Penalty of pairs at the end${name}`, 'shares of pairs of patches of one image in %', {
        type: 'bar', legend: {display: false}, data: {labels: last.map((_, i) => ((i + 0.5) / last.length).toFixed(3)),
          datasets: [{data: last.map((value) => 100 * value), backgroundColor: colorOf(0), barPercentage: 1,
            categoryPercentage: 0.92}]}, options: {scales: {x: axis('penalty'), y: axis('', {beginAtZero: true})}}});
    });
    lines('Thresholds', 'closeness above which patches are pulled together', [['within_threshold', 'within'],
      ['across_threshold', 'across']]);
    lines('Classes in use', 'that some patch of the batch is nearest to', [['classes_in_use', 'classes']], '',
      {beginAtZero: true});
    lines('Learning rates', '', [['projector_rate', 'projector'], ['predictor_rate', 'predictor']], '',
      {type: 'logarithmic'});
    lines('Validation', 'scores with labels', [['accuracy', 'accuracy'], ['miou', 'mIoU']], '', {beginAtZero: true});
    data.runs.forEach((run) => run.log.forEach((line, i) => {
      const before = run.log[i - 1];
      const goesOn = before && typeof line.seconds === 'number' && line.seconds > before.seconds;
      if (goesOn) line.step_milliseconds = 1000 * (line.seconds - before.seconds) / (line.step - before.step);
    }));
    lines('Time of a step', 'in ms', [['step_milliseconds', 'ms']], '', {beginAtZero: true});
    const profiled = data.runs.filter((run) => Object.keys(run.parts).length > 0);
    const parts = [...new Set(profiled.flatMap((run) => Object.keys(run.parts)))];
    if (profiled.length > 0) {
      chart(byId('charts'), 'Where the time of a step goes', 'ms, profiled', {type: 'bar',
        data: {labels: profiled.map((run) => run.name), datasets: parts.map((part, i) => ({label: part,
          data: profiled.map((run) => run.parts[part] || 0), backgroundColor: colorOf(i)}))},
        options: {indexAxis: 'y', scales: {x: axis('', {stacked: true}), y: axis('', {stacked: true})}}});
    }
  };

  // ---- Maps of patches: a point a patch, coloured by its class or by its picture; stars are prototypes.
  const starOf = (color) => {
    const canvas = document.createElement('canvas'), middle = 13;
    canvas.width = canvas.height = 2 * middle;
    const context = canvas.getContext('2d');
    for (let i = 0; i < 10; ++i) {
      const radius = i % 2 === 0 ? 11.5 : 5, angle = (i * 0.2 - 0.5) * Math.PI;
      context.lineTo(middle + radius * Math.cos(angle), middle + radius * Math.sin(angle));
    }
    context.closePath();
    context.fillStyle = color;
    context.fill();
    context.lineWidth = 1.8;
    context.strokeStyle = style('--text');
    context.stroke();
    return canvas;
  };
  let mapCharts = [];
  const drawMaps = () => {
    if (!byId('maps') || data.maps.length === 0) return;
    mapCharts.forEach((old) => {
      charts.splice(charts.indexOf(old), 1);
      old.destroy();
    });
    mapCharts = [];
    byId('maps').textContent = '';
    const method = byId('method').value, by = byId('by').value;
    const bare = {min: -1.08, max: 1.08, ticks: {display: false}, grid: {display: false, drawBorder: true}};
    data.maps.filter((map) => map.method === method).forEach((map) => {
      const groups = new Map();
      map.points.forEach(([x, y, klass, picture]) => {
        const key = by === 'class' ? klass : picture;
        if (!groups.has(key)) groups.set(key, []);
        groups.get(key).push({x, y});
      });
      const tint = (key) => by === 'class' ? css(palette[key]) : colorOf(key);
      const datasets = [...groups.keys()].sort((a, b) => a - b).map((key) => ({
        label: by === 'class' ? data.names[key] : map.pictures[key], data: groups.get(key), pointRadius: 2.2,
        backgroundColor: tint(key), borderWidth: 0}));
      if (map.stars.length > 0) {
        datasets.unshift({data: map.stars.map(([x, y]) => ({x, y})), pointRadius: 11,
          label: map.stars.map((star) => `prototype: ${data.names[star[2]]}`),
          pointStyle: map.stars.map((star) => starOf(by === 'class' ? css(palette[star[2]]) : style('--card')))});
      }
      const before = charts.length;
      chart(byId('maps'), map.title, map.hint, {type: 'scatter', data: {datasets}, legend: {display: false}, options: {
        parsing: false, scales: {x: bare, y: bare}, plugins: {tooltip: {callbacks: {
          label: ({dataset, dataIndex}) => Array.isArray(dataset.label) ? dataset.label[dataIndex] : dataset.label}}}}});
      mapCharts.push(charts[before]);
    });
    useTheme();
  };
  on('method', 'change', drawMaps);
  on('by', 'change', drawMaps);

  if (byId('charts')) drawTraining();
  drawMaps();
  useTheme();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    drawMaps();
    useTheme();
  });
  setOpacity(state.opacity);
  if (byId('count')) byId('count').textContent = `${articles.length} pictures`;
  if (data.refresh > 0) setTimeout(() => location.reload(), 1000 * data.refresh);
})();
